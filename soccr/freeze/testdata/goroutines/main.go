// Command goroutines does what Go programs wait in: timers, the netpoller,
// channels, blocking reads; for a second and a half. It prints what went
// wrong, else how often it did each.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

var (
	echoes, ticks, reads atomic.Int64
	wrong                sync.Map
)

func check(what string, err error) {
	if err != nil {
		wrong.Store(what+": "+err.Error(), true)
	}
}

func main() {
	end := time.Now().Add(1500 * time.Millisecond)
	var wg sync.WaitGroup
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check("listen", err)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	for range 4 {
		wg.Go(func() { echo(l.Addr().String(), end) })
		wg.Go(func() {
			for time.Now().Before(end) {
				begin := time.Now()
				time.Sleep(3 * time.Millisecond)
				if d := time.Since(begin); d < 3*time.Millisecond {
					check("sleep", fmt.Errorf("%v", d))
				}
				ticks.Add(1)
			}
		})
		wg.Go(func() { block(end) })
	}
	wg.Wait()
	n := 0
	wrong.Range(func(what, _ any) bool { fmt.Println(what); n++; return true })
	if n == 0 {
		fmt.Println("ok", echoes.Load(), ticks.Load(), reads.Load())
	}
}

// echo sends to itself, with a deadline for each read.
func echo(addr string, end time.Time) {
	c, err := net.Dial("tcp", addr)
	check("dial", err)
	if err != nil {
		return
	}
	defer c.Close()
	b := make([]byte, 1000)
	for time.Now().Before(end) {
		check("deadline", c.SetReadDeadline(time.Now().Add(time.Second)))
		_, err := c.Write(b)
		check("write", err)
		_, err = io.ReadFull(c, b)
		check("read", err)
		echoes.Add(1)
	}
}

// block reads from a file that blocks, in a thread of its own.
func block(end time.Time) {
	r, w, err := os.Pipe()
	check("pipe", err)
	r.Fd() // makes it block
	go func() {
		for time.Now().Before(end) {
			_, err := w.Write([]byte("x"))
			check("pipe write", err)
			time.Sleep(2 * time.Millisecond)
		}
		w.Close()
	}()
	for b := make([]byte, 1); ; reads.Add(1) {
		if _, err := r.Read(b); err == io.EOF {
			return
		} else {
			check("pipe read", err)
		}
	}
}
