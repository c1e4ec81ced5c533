package soccr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func wantUnsaveable(t testing.TB, what string, err error, reason string) {
	t.Helper()
	var u *UnsaveableError
	if !errors.As(err, &u) || u.Reason != reason || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("%s: got %v, want %q", what, err, reason)
	}
}

// A connection that is saved and resumed is as it was, whatever its owner
// had set, and saves the same again.
func TestResumeLeavesNoTrace(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		for _, state := range append(states, SynSent) {
			t.Run(f.name+"/"+state.String(), func(t *testing.T) {
				t.Parallel()
				enterNetNS(t)
				var p *pair
				var hear func()
				if state == SynSent {
					l, port := listen(t, f.domain, f.lo)
					deafen(t, l)
					p = &pair{t: t, a: open(t, f.domain)}
					check(t, unix.SetNonblock(p.a, true))
					if err := unix.Connect(p.a, mustSockaddr(t, p.a, f.lo, port)); err != unix.EINPROGRESS {
						t.Fatal(err)
					}
				} else {
					p = loPair(t, f)
					hear = p.reach(state)
				}
				check(t, unix.SetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
				setPeekOff(t, p.a, 3)
				before := Conn{Family: f.domain}
				check(t, ReadOptions(p.a, &before))

				b, err := Block(p.a)
				check(t, err)
				s, err := Pause(p.a)
				check(t, err)
				one, two := mustConn(t, s), mustConn(t, s)
				check(t, s.Resume())
				check(t, b.Undo())
				two.Timestamp = one.Timestamp
				if one.Data != two.Data || !bytes.Equal(one.Recv, two.Recv) || !bytes.Equal(one.Send, two.Send) {
					t.Error("two saves of one socket differ")
				}
				after := Conn{Family: f.domain}
				check(t, ReadOptions(p.a, &after))
				if diff := after.Options.Diff(before.Options); len(diff) > 0 {
					t.Errorf("options changed: %v", diff)
				}
				if diff := one.Options.Diff(before.Options); len(diff) > 0 {
					t.Errorf("options were saved wrong: %v", diff)
				}
				if on, err := unix.GetsockoptInt(p.a, unix.SOL_TCP, unix.TCP_REPAIR); err != nil || on != 0 {
					t.Errorf("TCP_REPAIR: got %d, %v, want 0", on, err)
				}
				if state == SynSent {
					return
				}
				setPeekOff(t, p.a, -1)
				hear()
				p.finish(p.a, state)
			})
		}
	}
}

func TestSaveTellsEverything(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	p := loPair(t, families[0])
	p.reach(Established)
	s, err := Pause(p.a)
	check(t, err)
	c := mustConn(t, s)
	var st unix.Stat_t
	check(t, unix.Fstat(p.a, &st))
	cookie, err := unix.GetsockoptUint64(p.a, unix.SOL_SOCKET, unix.SO_COOKIE)
	check(t, err)
	if m := c.Meta; m.Inode != st.Ino || m.Cookie != cookie || m.NetNS == 0 || m.Method != "repair" || !m.Live || m.Time.IsZero() {
		t.Errorf("Meta: %+v", m)
	}
	local, remote, err := addresses(p.a)
	check(t, err)
	if c.Local != local || c.Remote != remote || s.Local() != local || s.Remote() != remote {
		t.Errorf("%v to %v", c.Local, c.Remote)
	}
	if !bytes.Equal(c.Recv, p.toA) || !bytes.Equal(c.Send, p.toB) || !bytes.Equal(s.QueueBytes(RecvQueue), p.toA) ||
		!bytes.Equal(s.QueueBytes(SendQueue), p.toB) {
		t.Error("the bytes differ")
	}
	if c.Info.RTT <= 0 || c.Info.SndCwnd == 0 || len(c.Info.Lost) != 0 {
		t.Errorf("Info: %+v", c.Info)
	}
	if !c.HasWindow || c.MSSClamp == 0 || c.OptMask&(OptTimestamps|OptSACK|OptWscale) != OptTimestamps|OptSACK|OptWscale {
		t.Errorf("Data: %+v", c.Data)
	}
}

func TestSaveIntoABuffer(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	p := loPair(t, families[0])
	p.sendToA(5000)
	s, err := Pause(p.a)
	check(t, err)
	buf := make([]byte, 5002)
	s.UseBuffer(buf)
	_, err = s.Save()
	check(t, err)
	if got := s.QueueBytes(RecvQueue); !bytes.Equal(got, p.toA) || &got[0] != &buf[0] {
		t.Error("the bytes are not in the buffer")
	}
	s.UseBuffer(buf[:0:10]) // too small
	_, err = s.Save()
	check(t, err)
	if got := s.QueueBytes(RecvQueue); !bytes.Equal(got, p.toA) || &got[0] == &buf[0] {
		t.Error("the bytes are in a buffer that is too small")
	}
}

func TestOneRepairAtATime(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	p := loPair(t, families[0])
	s, err := Pause(p.a)
	check(t, err)
	if _, err := Pause(p.a); !errors.Is(err, ErrRepair) {
		t.Errorf("second Pause: %v, want %v", err, ErrRepair)
	}
	check(t, s.Resume())
	s, err = Pause(p.a)
	check(t, err)
	s.Release()
	if on, err := unix.GetsockoptInt(p.a, unix.SOL_TCP, unix.TCP_REPAIR); err != nil || on != 1 {
		t.Errorf("TCP_REPAIR after Release: got %d, %v, want 1", on, err)
	}
}

// Save must not take the error that waits for the owner.
func TestSaveLeavesThePendingError(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	p := loPair(t, families[0])
	check(t, unix.SetsockoptLinger(p.b, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	closeNow(t, p.b) // with a reset
	waitState(t, p.a, Close)
	s, err := Pause(p.a)
	check(t, err)
	c := mustConn(t, s)
	check(t, s.Resume())
	if len(c.Info.Lost) != 1 || c.Info.Lost[0] != "pending error" {
		t.Errorf("Lost: %v", c.Info.Lost)
	}
	if _, err := unix.Read(p.a, make([]byte, 1)); err != unix.ECONNRESET {
		t.Errorf("the owner reads %v, want %v", err, unix.ECONNRESET)
	}
}

func TestUrgentData(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		inline int
		before func(t *testing.T, p *pair)
		reason string
	}{
		{"unread", 0, func(*testing.T, *pair) {}, "1 byte of urgent data"},
		{"read, its hole ahead", 0, func(t *testing.T, p *pair) {
			_, _, err := unix.Recvfrom(p.a, make([]byte, 1), unix.MSG_OOB)
			check(t, err)
		}, "urgent data"},
		{"at the mark", 0, func(t *testing.T, p *pair) {
			_, _, err := unix.Recvfrom(p.a, make([]byte, 1), unix.MSG_OOB)
			check(t, err)
			_, err = unix.Read(p.a, make([]byte, 100))
			check(t, err)
		}, "urgent data"},
		{"in-line", 1, func(*testing.T, *pair) {}, "urgent data"},
		{"in-line at the mark", 1, func(t *testing.T, p *pair) {
			_, err := unix.Read(p.a, make([]byte, 100))
			check(t, err)
		}, "urgent data"},
		{"past", 0, func(t *testing.T, p *pair) {
			_, _, err := unix.Recvfrom(p.a, make([]byte, 1), unix.MSG_OOB)
			check(t, err)
			for range 2 { // reading stops at the mark
				_, err = unix.Read(p.a, make([]byte, 100))
				check(t, err)
			}
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			enterNetNS(t)
			p := loPair(t, families[0])
			check(t, unix.SetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_OOBINLINE, test.inline))
			writeAll(t, p.b, []byte("before"))
			check(t, unix.Sendto(p.b, []byte("!"), unix.MSG_OOB, nil))
			writeAll(t, p.b, []byte("after"))
			eventually(t, "all bytes", func() bool { return ioctl(t, p.b, unix.SIOCOUTQ) == 0 })
			test.before(t, p)
			s, err := Pause(p.a)
			check(t, err)
			_, err = s.Save()
			check(t, s.Resume())
			if test.reason == "" {
				check(t, err)
				return
			}
			wantUnsaveable(t, "Save", err, test.reason)
			inline, err := unix.GetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_OOBINLINE)
			if err != nil || inline != test.inline {
				t.Errorf("SO_OOBINLINE: got %d, %v, want %d", inline, err, test.inline)
			}
		})
	}
}

func TestWhatCannotBeSaved(t *testing.T) {
	t.Parallel()
	enterNetNS(t)

	l, _ := listen(t, unix.AF_INET, "127.0.0.1")
	wantUnsaveable(t, "Saveable, listener", Saveable(l), "a listener is not a connection")
	_, err := Pause(l)
	wantUnsaveable(t, "Pause, listener", err, "a listener is not a connection")

	mp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	check(t, err)
	defer unix.Close(mp)
	wantUnsaveable(t, "Saveable, MPTCP", Saveable(mp), "MPTCP")
	_, err = Pause(mp)
	wantUnsaveable(t, "Pause, MPTCP", err, "MPTCP")

	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(udp)
	if err := Saveable(udp); !errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Errorf("Saveable, UDP: %v", err)
	}

	p := loPair(t, families[0])
	check(t, Saveable(p.a))
	p6 := loPair(t, families[1])
	check(t, Saveable(p6.a))
}

// Data that left with the SYN of TCP Fast Open is in no queue that can be
// told apart.
func TestFastOpenSYN(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	// Client and server, without cookies.
	sysctl(t, "net/ipv4/tcp_fastopen", "519")
	l, port := listen(t, unix.AF_INET, "127.0.0.1")
	deafen(t, l)
	a := open(t, unix.AF_INET)
	check(t, unix.SetNonblock(a, true))
	if _, err := unix.SendmsgN(a, []byte("hello"), nil, mustSockaddr(t, a, "127.0.0.1", port), unix.MSG_FASTOPEN); err != nil && err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	if got := stateOf(t, a); got != SynSent {
		t.Fatalf("state %v", got)
	}
	s, err := Pause(a)
	check(t, err)
	_, err = s.Save()
	wantUnsaveable(t, "Save", err, "data in the SYN (TCP Fast Open)")
	check(t, s.Resume())
}

// Keys for TCP-MD5 are seen in the socket's own namespace, from any other.
func TestMD5(t *testing.T) {
	t.Parallel()
	ns := newNetNS(t)
	var p *pair
	ns.do(t, func() { p = loPair(t, families[0]) })
	check(t, Saveable(p.a))
	// struct tcp_md5sig of <linux/tcp.h>: address, flags, prefix, length of
	// the key, interface, key.
	sig := make([]byte, 128+8+80)
	binary.NativeEndian.PutUint16(sig, unix.AF_INET)
	copy(sig[4:], []byte{127, 0, 0, 1})
	binary.NativeEndian.PutUint16(sig[130:], 3)
	copy(sig[136:], "key")
	err := setsockoptBytes(p.a, unix.SOL_TCP, unix.TCP_MD5SIG, sig)
	if errors.Is(err, unix.ENOPROTOOPT) {
		skip(t, "this kernel has no TCP-MD5")
	}
	check(t, err)
	wantUnsaveable(t, "Saveable", Saveable(p.a), "TCP-MD5 signatures")
}
