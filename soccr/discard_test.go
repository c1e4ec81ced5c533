package soccr

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// vethTest is a pair over veth: a in from, b in peer.
type vethTest struct {
	*pair
	from, peer netNS
	heard      func() []string // by b's interface
}

func newVethTest(t testing.TB, f family) *vethTest {
	t.Helper()
	v := &vethTest{from: newNetNS(t), peer: newNetNS(t)}
	vethPair(t, v.from, v.peer)
	v.pair = connectPair(t, f, f.a, f.b,
		func(fn func()) { v.from.do(t, fn) }, func(fn func()) { v.peer.do(t, fn) })
	v.peer.do(t, func() { v.heard = sniffTCP(t, "vb") })
	return v
}

func TestDiscardIsSilent(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		for _, state := range states {
			t.Run(f.name+"/"+state.String(), func(t *testing.T) {
				t.Parallel()
				v := newVethTest(t, f)
				v.reach(state)
				s, err := Pause(v.a)
				check(t, err)
				before := stateOf(t, v.b)
				time.Sleep(50 * time.Millisecond) // for packets on their way
				v.heard()
				check(t, s.Discard())
				time.Sleep(400 * time.Millisecond) // more than a timeout of before
				if heard := leaveOutResets(v.heard(), state); len(heard) > 0 {
					t.Errorf("the peer heard %v", heard)
				}
				if got := stateOf(t, v.b); got != before && state != Closing {
					t.Errorf("the peer went from %v to %v", before, got)
				}
				if got := stateOf(t, v.a); got != Close {
					t.Errorf("discarded: state %v, want %v", got, Close)
				}
			})
		}
	}
}

func TestDiscardWakesTheOwner(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		nr   int // of the system call
		call func(fd int) (int, error)
		n    int
		err  error
		next error // of the call after it
	}{
		{"read", unix.SYS_READ, func(fd int) (int, error) { return unix.Read(fd, make([]byte, 10)) },
			-1, unix.EPIPE, unix.ECONNABORTED},
		{"write", unix.SYS_WRITE, func(fd int) (int, error) { return unix.Write(fd, make([]byte, 10)) },
			-1, unix.ECONNABORTED, unix.ENOTCONN},
		{"poll", unix.SYS_PPOLL, func(fd int) (int, error) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(p, int(limit.Milliseconds()))
			if p[0].Revents&unix.POLLERR == 0 {
				return int(p[0].Revents), unix.EIO
			}
			return n, err
		}, 1, nil, unix.ECONNABORTED},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			enterNetNS(t)
			p := loPair(t, families[0])
			deafen(t, p.b)
			eventually(t, "full queue", func() bool { // and nothing that makes room
				_, err := unix.SendmsgN(p.a, make([]byte, 1<<20), nil, nil, unix.MSG_DONTWAIT)
				return err == unix.EAGAIN
			})
			type result struct {
				n   int
				err error
			}
			tid, done := make(chan int, 1), make(chan result, 1)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				tid <- unix.Gettid()
				n, err := c.call(p.a)
				done <- result{n, err}
			}()
			asleep := fmt.Sprintf("/proc/self/task/%d/syscall", <-tid)
			eventually(t, "sleep in "+c.name, func() bool {
				b, err := os.ReadFile(asleep)
				check(t, err)
				return strings.HasPrefix(string(b), fmt.Sprintf("%d %#x ", c.nr, p.a)) ||
					c.nr == unix.SYS_PPOLL && strings.HasPrefix(string(b), fmt.Sprintf("%d ", c.nr))
			})
			s, err := Pause(p.a)
			check(t, err)
			check(t, s.Discard())
			select {
			case r := <-done:
				if r.n != c.n || r.err != c.err {
					t.Errorf("the sleeping call: got %d, %v, want %d, %v", r.n, r.err, c.n, c.err)
				}
			case <-time.After(limit):
				t.Fatal("the call sleeps on")
			}
			if _, err := unix.Read(p.a, make([]byte, 10)); err != c.next {
				t.Errorf("the next call: %v, want %v", err, c.next)
			}
		})
	}
}

// What Discard leaves is a socket like new, with the owner's SO_REUSEADDR,
// and the addresses are free while it is still open.
func TestDiscardFreesTheAddresses(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	p := loPair(t, families[0])
	check(t, unix.SetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	c := saveAndDiscard(t, p.a)
	if reuse, err := unix.GetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil || reuse != 1 {
		t.Errorf("SO_REUSEADDR: got %d, %v, want 1", reuse, err)
	}
	if on, err := unix.GetsockoptInt(p.a, unix.SOL_TCP, unix.TCP_REPAIR); err != nil || on != 0 {
		t.Errorf("TCP_REPAIR: got %d, %v, want 0", on, err)
	}
	check(t, Restore(open(t, unix.AF_INET), c))
}
