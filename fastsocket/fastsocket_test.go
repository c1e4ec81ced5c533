package fastsocket

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func mustListen(t *testing.T, network, address string) *Group {
	t.Helper()
	g, err := Listen(context.Background(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// ask makes n connections from a CPU and returns what each said.
func ask(address string, cpu, n int) (texts []string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends
		var set unix.CPUSet
		set.Set(cpu)
		if err = unix.SchedSetaffinity(0, &set); err != nil {
			return
		}
		for range n {
			var text string
			if text, err = askOnce(address); err != nil {
				return
			}
			texts = append(texts, text)
		}
	}()
	<-done
	return texts, err
}

// askOnce connects on this very thread: package net might change it.
func askOnce(address string) (string, error) {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return "", err
	}
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())})
	if ip := a.IP.To4(); ip != nil {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		return string(b[:max(n, 0)]), err
	}
}

func needCPUs(t *testing.T) []int {
	t.Helper()
	cpus, err := allowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if len(cpus) < 2 {
		t.Skip("needs two CPUs")
	}
	return cpus
}

// Connections from each CPU come to the listener for it, in both families.
func TestPick(t *testing.T) {
	cpus := needCPUs(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			g := mustListen(t, "tcp", address)
			for _, l := range g.Listeners() {
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						io.WriteString(c, strconv.Itoa(l.CPU))
						c.Close()
					}
				}()
			}
			for _, cpu := range cpus {
				texts, err := ask(g.Addr().String(), cpu, 100)
				if err != nil {
					t.Fatal(err)
				}
				for _, text := range texts {
					if text != strconv.Itoa(cpu) {
						t.Fatalf("a connection from CPU %d came to the listener of %s", cpu, text)
					}
				}
			}
		})
	}
}

// Serve runs on the CPUs of the listeners; it lets go while all load comes
// from one CPU, takes back and ends with Close.
func TestServe(t *testing.T) {
	cpus := needCPUs(t)
	g := mustListen(t, "tcp", "127.0.0.1:0")
	served := make(chan error, 1)
	go func() {
		served <- g.Serve(func(c net.Conn) {
			io.WriteString(c, "hello")
			c.Close()
		})
	}()
	load := func(cpus []int, want bool) {
		t.Helper()
		end := time.Now().Add(20 * time.Second)
		for time.Now().Before(end) {
			var wg sync.WaitGroup
			for _, cpu := range cpus {
				wg.Go(func() {
					if _, err := ask(g.Addr().String(), cpu, 50); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if on, _ := g.Steered(); on == want {
				return
			}
		}
		t.Fatalf("load from %v: steering does not become %v", cpus, want)
	}
	load(cpus, true)
	load(cpus[:1], false)
	load(cpus, true)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not return after Close")
	}
}

func TestSecondStartFails(t *testing.T) {
	g := mustListen(t, "tcp", "127.0.0.1:0")
	if other, err := Listen(context.Background(), "tcp", g.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		if err == nil {
			other.Close()
		}
		t.Errorf("got %v, want EADDRINUSE", err)
	}
}

func TestBadInput(t *testing.T) {
	for _, c := range []struct {
		network, address string
		config           Config
	}{
		{"udp", "127.0.0.1:0", Config{}},
		{"tcp", "127.0.0.1", Config{}},
		{"tcp", "127.0.0.1:0", Config{CPUs: []int{}}},
		{"tcp", "127.0.0.1:0", Config{Control: func(string, string, syscall.RawConn) error { return syscall.EPERM }}},
	} {
		if g, err := c.config.Listen(context.Background(), c.network, c.address); err == nil {
			g.Close()
			t.Errorf("%s %s: no error", c.network, c.address)
		}
	}
}

func TestJudge(t *testing.T) {
	var j judge
	on := true
	for i, step := range []struct {
		shares float64
		want   bool
	}{{2, true}, {2, false}, {1.3, false}, {1, false}, {1, false}, {1, false}, {1, true}, {2, true}, {1.4, true}, {2, false}} {
		if on = j.look(on, step.shares); on != step.want {
			t.Errorf("step %d: got %v, want %v", i, on, step.want)
		}
	}
}
