package soccr

import (
	"errors"
	"maps"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// without runs fn on a thread that lacks a capability.
func without(t testing.TB, capability uint, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&hdr, &data[0]); err != nil {
			t.Error(err)
			return
		}
		data[capability/32].Effective &^= 1 << (capability % 32)
		if err := unix.Capset(&hdr, &data[0]); err != nil {
			t.Error(err)
			return
		}
		fn()
	}()
	<-done
}

func TestRestoreErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	ns := newNetNS(t)
	var c *Conn
	ns.do(t, func() {
		p := loPair(t, families[0])
		p.reach(CloseWait)
		s, err := Pause(p.a)
		check(t, err)
		c = mustConn(t, s)
	})
	for _, test := range []struct {
		name   string
		change func(*Conn)
		lacks  int // a capability
		err    error
		says   string
	}{
		{"exists", func(*Conn) {}, -1, unix.EADDRINUSE, "still exists here"},
		{"no address", func(c *Conn) { c.Local = mustAddrPort("192.0.2.1:80") }, -1, unix.EADDRNOTAVAIL, "address 192.0.2.1 is not on an interface of this stack, add it"},
		{"no route", func(c *Conn) {
			c.Local, c.Options["IP_FREEBIND"], c.Remote = mustAddrPort("192.0.2.2:80"), 1, mustAddrPort("192.0.2.1:80")
		}, -1, unix.ENETUNREACH, "no route to 192.0.2.1"},
		{"no net admin", func(*Conn) {}, unix.CAP_NET_ADMIN, unix.EPERM, "CAP_NET_ADMIN"},
		{"no raw", func(*Conn) {}, unix.CAP_NET_RAW, unix.EPERM, "CAP_NET_RAW"},
		{"low port", func(c *Conn) { c.Local = mustAddrPort("127.0.0.1:80") }, unix.CAP_NET_BIND_SERVICE, unix.EACCES, "CAP_NET_BIND_SERVICE"},
		{"device", func(c *Conn) { c.Device = "nosuch0" }, -1, unix.ENODEV, "nosuch0"},
		{"family", func(c *Conn) { c.Family = unix.AF_INET6 }, -1, unix.EINVAL, "family"},
		{"mixed addresses", func(c *Conn) { c.Remote = mustAddrPort("[::1]:80") }, -1, unix.EINVAL, "different families"},
		{"no port", func(c *Conn) { c.Remote = mustAddrPort("127.0.0.1:0") }, -1, unix.EINVAL, "no address"},
		{"queue", func(c *Conn) { c.Recv = c.Recv[1:] }, -1, unix.EINVAL, "queues"},
		{"unsent", func(c *Conn) { c.UnsqLen = c.OutqLen + 1 }, -1, unix.EINVAL, "queues"},
		{"acked FIN", func(c *Conn) { c.State = FinWait2 }, -1, unix.EINVAL, "acknowledged"},
		{"SYN", func(c *Conn) { c.State = SynSent }, -1, unix.EINVAL, "bytes in state syn-sent"},
		{"state", func(c *Conn) { c.State = Listen }, -1, unix.EINVAL, "state listen"},
		{"scale", func(c *Conn) { c.RcvWscale = 15 }, -1, unix.EINVAL, "window scale"},
		{"peerless", func(c *Conn) { c.State, c.Remote = Close, (Conn{}).Remote }, -1, unix.EINVAL, "without a peer"},
		{"window", func(c *Conn) { c.MaxWindow = c.SndWnd - 1; c.Remote = mustAddrPort("127.0.0.1:9") }, -1, unix.EINVAL, "TCP_REPAIR_WINDOW"},
		{"option", func(c *Conn) { c.Options["TCP_KEEPCNT"] = 1000 }, -1, unix.EINVAL, "TCP_KEEPCNT to 1000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := *c
			bad.Options = maps.Clone(c.Options)
			test.change(&bad)
			var err error
			ns.do(t, func() {
				fd := mustSocket(t, unix.AF_INET)
				if test.lacks >= 0 {
					without(t, uint(test.lacks), func() { err = Restore(fd, &bad) })
				} else {
					err = Restore(fd, &bad)
				}
			})
			if !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("got %v, want %v that says %q", err, test.err, test.says)
			}
		})
	}
}

// Whatever a restore fails at, the peer hears nothing of it, nor of the
// close that follows.
func TestFailedRestoreIsSilent(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		for _, state := range states {
			t.Run(f.name+"/"+state.String(), func(t *testing.T) {
				t.Parallel()
				v := newVethTest(t, f)
				v.reach(state)
				c := saveAndDiscard(t, v.a)
				c.Options["SO_BUF_LOCK"] = 7 // no such bits; among the last things that are set
				before := stateOf(t, v.b)
				time.Sleep(20 * time.Millisecond)
				v.heard()
				v.from.do(t, func() {
					fd := open(t, f.domain)
					if err := Restore(fd, c); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "SO_BUF_LOCK") {
						t.Errorf("Restore: %v", err)
					}
					if on, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR); err != nil || on != 1 {
						t.Errorf("TCP_REPAIR: got %d, %v, want 1", on, err)
					}
					closeNow(t, fd)
				})
				time.Sleep(400 * time.Millisecond) // more than a timeout of before
				if heard := leaveOutResets(v.heard(), state); len(heard) > 0 {
					t.Errorf("the peer heard %v", heard)
				}
				if got := stateOf(t, v.b); got != before && state != Closing {
					t.Errorf("the peer went from %v to %v", before, got)
				}
			})
		}
	}
}

// A packet in the name of the peer that cannot arrive is an error too, and
// no less silent.
func TestForgedPacketDoesNotArrive(t *testing.T) {
	t.Parallel()
	for _, state := range []State{CloseWait, FinWait2} {
		t.Run(state.String(), func(t *testing.T) {
			t.Parallel()
			v := newVethTest(t, families[0])
			v.reach(state)
			c := saveAndDiscard(t, v.a)
			time.Sleep(20 * time.Millisecond)
			v.heard()
			v.from.do(t, func() {
				lo, err := netlink.LinkByName("lo")
				check(t, err)
				check(t, netlink.LinkSetDown(lo))
				fd := open(t, unix.AF_INET)
				if err := Restore(fd, c); !errors.Is(err, unix.ETIMEDOUT) || !strings.Contains(err.Error(), "0xc114") {
					t.Errorf("Restore: %v", err)
				}
				closeNow(t, fd)
			})
			time.Sleep(100 * time.Millisecond)
			if heard := v.heard(); len(heard) > 0 {
				t.Errorf("the peer heard %v", heard)
			}
		})
	}
}

// closeNow closes a descriptor that the test closes at its end too: another
// takes its number.
func closeNow(t testing.TB, fd int) {
	t.Helper()
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(t, err)
	check(t, unix.Dup3(null, fd, unix.O_CLOEXEC))
	unix.Close(null)
}
