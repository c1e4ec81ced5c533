package fstests

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/msocket"
)

func TestGoDialEndsWithItsContext(t *testing.T) {
	m, a, _ := pairMount(t, Config{})
	a.IP("neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	c, err := msocket.Dial(ctx, m.Path("a"), "tcp", "192.0.2.9:1")
	var timeout net.Error
	if c != nil || !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v, %v, want a timeout", c, err)
	}
	if d := time.Since(start); d > ScaleTime(3*time.Second) {
		t.Errorf("took %v", d)
	}
	c, err = msocket.Stack{Path: m.Path("a"), Timeout: 100 * time.Millisecond}.Dial("tcp", "192.0.2.9:1")
	if c != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with Timeout: got %v, %v", c, err)
	}
	if c, err := msocket.Dial(context.Background(), m.Path("a"), "tcp", "192.0.2.2:1"); c != nil || !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("no listener: got %v, %v, want ECONNREFUSED", c, err)
	}
}

// TestGoDialWithStoppedDaemon: not even a daemon that does not answer holds
// a dial beyond its context.
func TestGoDialWithStoppedDaemon(t *testing.T) {
	m, _, _ := pairMount(t, Config{})
	m.Pause()
	start := time.Now()
	c, err := msocket.Stack{Path: m.Path("a"), Timeout: 200 * time.Millisecond}.Dial("tcp", "192.0.2.2:1")
	d := time.Since(start)
	m.Resume()
	if c != nil || !errors.Is(err, context.DeadlineExceeded) || d > ScaleTime(3*time.Second) {
		t.Errorf("got %v, %v after %v, want a timeout", c, err, d)
	}
	WaitFor(t, 5*time.Second, "the request that nobody waits for is served", func() bool {
		return m.Status("a")["channels"] == "1"
	})
	WaitFor(t, 5*time.Second, "and its channel closed", func() bool {
		msocket.CloseIdle()
		return m.Status("a")["channels"] == "0"
	})
}

func TestGoStackIsGone(t *testing.T) {
	m, _, _ := pairMount(t, Config{Stacks: []string{"own"}, AllowLog: []string{"stacks in use stay"}})
	own := m.Path("own")
	held, err := msocket.Socket(own, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	want := func(what string, ask func() (*os.File, error)) {
		t.Helper()
		if f, err := ask(); f != nil || !errors.Is(err, unix.ENODEV) {
			t.Errorf("%s: got %v, %v, want ENODEV", what, f, err)
		}
	}
	stream := func() (*os.File, error) { return msocket.Socket(own, unix.AF_INET, unix.SOCK_STREAM, 0) }
	raw := func() (*os.File, error) { return msocket.Socket(own, unix.AF_NETLINK, unix.SOCK_RAW, 0) }
	dir, err := os.Open(own)
	if err != nil {
		t.Fatal(err)
	}
	m.Kill()
	want("daemon killed, channel", stream)
	want("daemon killed, ioctl", raw)
	WaitFor(t, 3*time.Second, "the dead mount is detached", func() bool { return len(mountsBelow(t, m.Dir)) == 0 })
	want("mount gone, channel", stream)
	want("mount gone, ioctl", raw)
	if c, err := msocket.Dial(context.Background(), own, "tcp", "127.0.0.1:1"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("Dial: got %v, %v, want ENODEV", c, err)
	}
	dir.Close()
	if _, err := unix.Getsockname(int(held.Fd())); err != nil {
		t.Errorf("a socket that was there before: %v", err)
	}
	m.Start()
	f, err := stream()
	if err != nil {
		t.Fatalf("a new daemon: %v", err)
	}
	f.Close()
	held.Close()
}
