package soccr

import (
	"errors"
	"testing"
)

var states = []State{Established, FinWait1, FinWait2, CloseWait, LastAck, Closing, Close}

// saveAndDiscard saves a connection and ends it silently.
func saveAndDiscard(t testing.TB, fd int) *Conn {
	t.Helper()
	s, err := Pause(fd)
	check(t, err)
	c := mustConn(t, s)
	check(t, s.Discard())
	return c
}

// mustConn saves a connection, which may still be sending what it can.
func mustConn(t testing.TB, s *Socket) *Conn {
	t.Helper()
	var c *Conn
	eventually(t, "save without a change", func() bool {
		var err error
		if c, err = s.Conn(); errors.Is(err, ErrChanged) {
			return false
		}
		check(t, err)
		return true
	})
	return c
}

func wantFilled(t testing.TB, c *Conn) {
	t.Helper()
	if c.InqLen == 0 {
		t.Fatalf("%v: the receive queue is empty: nothing is tested", c.State)
	}
	switch c.State {
	case Established, FinWait1, CloseWait, LastAck, Closing:
		if c.UnsqLen == 0 || c.UnsqLen == c.OutqLen {
			t.Fatalf("%v: %d of %d bytes are unsent: nothing is tested", c.State, c.UnsqLen, c.OutqLen)
		}
	}
}

func TestRestoreInSameNamespace(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		for _, state := range states {
			t.Run(f.name+"/"+state.String(), func(t *testing.T) {
				t.Parallel()
				enterNetNS(t)
				p := loPair(t, f)
				hear := p.reach(state)
				c := saveAndDiscard(t, p.a)
				wantFilled(t, c)
				if c.State != state {
					t.Fatalf("saved %v, want %v", c.State, state)
				}
				fd := open(t, f.domain)
				check(t, Restore(fd, c))
				if got := stateOf(t, fd); got != state {
					t.Fatalf("restored to %v, want %v", got, state)
				}
				hear()
				p.finish(fd, state)
			})
		}
	}
}

func TestRestoreInAnotherNamespace(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		for _, state := range states {
			t.Run(f.name+"/"+state.String(), func(t *testing.T) {
				t.Parallel()
				from, to, peer := newNetNS(t), newNetNS(t), newNetNS(t)
				vethPair(t, from, peer)
				p := connectPair(t, f, f.a, f.b,
					func(fn func()) { from.do(t, fn) }, func(fn func()) { peer.do(t, fn) })
				hear := p.reach(state)
				c := saveAndDiscard(t, p.a)
				wantFilled(t, c)
				moveVeth(t, from, to)
				to.do(t, func() {
					fd := open(t, f.domain)
					check(t, Restore(fd, c))
					if got := stateOf(t, fd); got != state {
						t.Fatalf("restored to %v, want %v", got, state)
					}
					hear()
					p.finish(fd, state)
				})
			})
		}
	}
}
