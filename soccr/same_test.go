package soccr

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection that is saved again before it starts is the one that was
// saved, in every number, byte and option.
func TestRestoredIsWhatWasSaved(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		for _, state := range states {
			t.Run(f.name+"/"+state.String(), func(t *testing.T) {
				t.Parallel()
				enterNetNS(t)
				p, want, hear := saveFilled(t, state, func() *pair {
					p := loPair(t, f)
					setOdd(t, p.a, f.domain)
					return p
				})
				s, err := Pause(open(t, f.domain))
				check(t, err)
				check(t, s.restore(want))
				got := mustConn(t, s)
				sameConn(t, got, want)
				check(t, s.Resume())
				if reuse, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil || reuse != 1 {
					t.Errorf("SO_REUSEADDR: got %d, %v, want 1", reuse, err)
				}
				hear()
				check(t, unix.SetsockoptInt(s.fd, unix.SOL_TCP, unix.TCP_CORK, 0))
				setPeekOff(t, s.fd, -1)
				p.finish(s.fd, state)
			})
		}
	}
}

// setPeekOff sets SO_PEEK_OFF, which TCP has since 6.9, and tells whether it
// is there.
func setPeekOff(t testing.TB, fd, off int) bool {
	t.Helper()
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, off)
	if err != unix.EOPNOTSUPP {
		check(t, err)
	}
	return err == nil
}

// setOdd gives a connected socket options that a new one does not have.
func setOdd(t testing.TB, fd, domain int) {
	t.Helper()
	for _, o := range OptionNames() {
		switch o.Name {
		case "IPV6_V6ONLY", "IP_FREEBIND", "IP_TRANSPARENT", "TCP_MAXSEG", // too late for them
			"SO_DONTROUTE", "IP_MINTTL", "IPV6_MINHOPCOUNT", "SO_MAX_PACING_RATE", // change what the test sees
			"SO_SNDBUF", "TCP_NOTSENT_LOWAT":
			continue
		}
		if o.Flags&FlagInet6 != 0 && domain == unix.AF_INET {
			continue
		}
		if o.Name == "SO_PEEK_OFF" {
			setPeekOff(t, fd, int(odd[o.Name]))
			continue
		}
		if err := o.set(fd, odd[o.Name]); err != nil {
			t.Fatalf("%s: %v", o.Name, err)
		}
	}
	check(t, unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, "reno"))
}

func sameConn(t testing.TB, got, want *Conn) {
	t.Helper()
	g, w := got.Data, want.Data
	if w.State == Close {
		// Of no use to anybody, and not kept: how it came to be.
		g.HasWindow, g.SndWl1, g.SndWnd, g.MaxWindow, g.RcvWnd, g.RcvWup = w.HasWindow, w.SndWl1, w.SndWnd, w.MaxWindow, w.RcvWnd, w.RcvWup
	}
	if d := g.Timestamp - w.Timestamp; d > 5000 && w.OptMask&OptUsecTS == 0 {
		t.Errorf("TCP_TIMESTAMP went from %d to %d", w.Timestamp, g.Timestamp)
	}
	g.Timestamp = w.Timestamp
	if g != w {
		t.Errorf("restored\n%+v, saved\n%+v", g, w)
	}
	if !bytes.Equal(got.Recv, want.Recv) || !bytes.Equal(got.Send, want.Send) {
		t.Error("the queues differ")
	}
	if got.Local != want.Local || got.Remote != want.Remote || got.Family != want.Family {
		t.Errorf("restored %v to %v, saved %v to %v", got.Local, got.Remote, want.Local, want.Remote)
	}
	if got.Shutdown != want.Shutdown {
		t.Errorf("Shutdown: restored %d, saved %d", got.Shutdown, want.Shutdown)
	}
	if diff := got.Options.Diff(want.Options); len(diff) > 0 {
		for _, name := range diff {
			t.Errorf("%s: restored %d, saved %d", name, got.Options[name], want.Options[name])
		}
	}
	for _, name := range []string{"SO_SNDBUF", "SO_RCVBUF", "TCP_WINDOW_CLAMP"} {
		if d := got.Options[name] - want.Options[name]; d < -1 || d > 1 {
			t.Errorf("%s: restored %d, saved %d", name, got.Options[name], want.Options[name])
		}
	}
	if got.Congestion != want.Congestion || got.Device != want.Device {
		t.Errorf("restored %q on %q, saved %q on %q", got.Congestion, got.Device, want.Congestion, want.Device)
	}
}

// What the handshake did not agree on is not there afterwards, whatever
// this stack would agree on.
func TestRestoreWithoutTCPOptions(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"window_scaling", "timestamps", "sack"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			enterNetNS(t)
			set := func(v string) { sysctl(t, "net/ipv4/tcp_"+name, v) }
			set("0")
			p := loPair(t, families[0])
			hear := p.reach(Established)
			check(t, unix.SetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)) // worth a scale
			set("1")
			want := saveAndDiscard(t, p.a)
			s, err := Pause(open(t, unix.AF_INET))
			check(t, err)
			check(t, s.restore(want))
			got := mustConn(t, s)
			sameConn(t, got, want)
			check(t, s.Resume())
			hear()
			// The window that the peer is told, in the scale it knows.
			readAll(t, "a", s.fd, p.toA)
			readAll(t, "b", p.b, p.toB)
			writeAll(t, s.fd, []byte("x"))
			readAll(t, "b", p.b, []byte("x"))
			if wnd := saveAndDiscard(t, p.b).SndWnd; wnd < 30_000 {
				t.Errorf("the peer knows a window of %d bytes", wnd)
			}
		})
	}
}
