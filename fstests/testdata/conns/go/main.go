// Command exchange is an exchange with package net. Usage and report:
// ../c/exchange.h.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	period     = 262139
	seedClient = 0x9e3779b9
	seedServer = 0x7f4a7c15
	maxErrors  = 1000
)

func table(seed uint32) []byte {
	b := make([]byte, 0, 2*period+4)
	for x := seed; len(b) < period; {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return append(b[:period], b[:period]...)
}

// A report is what one side has seen.
type report struct {
	Sent     uint64         `json:"sent"`
	Received uint64         `json:"received"`
	Corrupt  uint64         `json:"corrupt"`
	Reads    uint64         `json:"reads"`
	EINTR    int            `json:"eintr"`
	MaxGap   int64          `json:"max_gap_us"`
	EOF      bool           `json:"eof"`
	Errors   map[string]int `json:"errors"`
}

// failed counts an error and tells whether to give up.
func (r *report) failed(err error) bool {
	var e syscall.Errno
	name := fmt.Sprintf("%T", err)
	if errors.As(err, &e) {
		name = unix.ErrnoName(e)
	}
	if e == syscall.EINTR {
		r.EINTR++
	}
	r.Errors[name]++
	return r.Errors[name] >= maxErrors
}

func (r *report) receive(c *net.TCPConn, want []byte) {
	b := make([]byte, 65536)
	for last := time.Now(); ; {
		n, err := c.Read(b)
		if n > 0 {
			now := time.Now()
			if r.Reads > 0 {
				r.MaxGap = max(r.MaxGap, now.Sub(last).Microseconds())
			}
			last = now
			r.got(want[r.Received%period:], b[:n])
		}
		if err == io.EOF {
			r.EOF = true
			return
		}
		if err != nil && r.failed(err) {
			return
		}
	}
}

func (r *report) got(want, b []byte) {
	if !bytes.Equal(b, want[:len(b)]) {
		for i := range b {
			if b[i] != want[i] {
				r.Corrupt++
			}
		}
	}
	r.Received += uint64(len(b))
	r.Reads++
}

func (r *report) send(c *net.TCPConn, stream []byte, opts map[string]uint64, stop *atomic.Bool) {
	start := time.Now()
	for !stop.Load() {
		if rate := opts["rate"]; rate > 0 {
			due := start.Add(time.Duration(float64(r.Sent) / float64(rate) * 1e9))
			if early := time.Until(due); early > time.Millisecond {
				time.Sleep(early)
			}
		}
		at, length := r.Sent%period, 1+uint64(uint32(r.Sent*2654435761>>7))%opts["size"]
		n, err := c.Write(stream[at : at+length])
		r.Sent += uint64(n)
		if err != nil && r.failed(err) {
			break
		}
	}
	if err := c.CloseWrite(); err != nil {
		r.failed(err)
	}
}

// connect returns the connection of either role.
func connect(role, address string, opts map[string]uint64) (*net.TCPConn, error) {
	control := func(_, _ string, raw syscall.RawConn) (err error) {
		n := int(opts["buf"])
		if n == 0 {
			return nil
		}
		cerr := raw.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, n),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, n))
		})
		return errors.Join(err, cerr)
	}
	var c net.Conn
	var err error
	if role == "client" {
		d := net.Dialer{Control: control}
		c, err = d.Dial("tcp", address)
	} else {
		var l net.Listener
		lc := net.ListenConfig{Control: control}
		l, err = lc.Listen(context.Background(), "tcp", address)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		fmt.Println("ready")
		c, err = l.Accept()
	}
	if err != nil {
		return nil, err
	}
	fmt.Println("connected")
	return c.(*net.TCPConn), nil
}

func run(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: exchange client|server ADDRESS PORT [KEY=VALUE]...")
	}
	opts := map[string]uint64{"size": 16384, "rate": 0, "buf": 0}
	for _, arg := range args[3:] {
		key, value, _ := strings.Cut(arg, "=")
		if _, ok := opts[key]; !ok {
			return fmt.Errorf("unknown option %s", arg)
		}
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return err
		}
		opts[key] = n
	}
	c, err := connect(args[0], net.JoinHostPort(args[1], args[2]), opts)
	if err != nil {
		return err
	}
	out, in := table(seedClient), table(seedServer)
	if args[0] == "server" {
		out, in = in, out
	}
	received, sent := report{Errors: map[string]int{}}, report{Errors: map[string]int{}}
	done := make(chan struct{}, 2)
	go func() { received.receive(c, in); done <- struct{}{} }()
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return err
	}
	var stop atomic.Bool
	go func() { sent.send(c, out, opts, &stop); done <- struct{}{} }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop.Store(true)
	<-done
	<-done
	received.Sent = sent.Sent
	received.EINTR += sent.EINTR
	for name, n := range sent.Errors {
		received.Errors[name] += n
	}
	return json.NewEncoder(os.Stdout).Encode(received)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "exchange:", err)
		os.Exit(1)
	}
}
