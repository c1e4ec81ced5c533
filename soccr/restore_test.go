package soccr

import (
	"errors"
	"testing"
)

var states = []State{Established, FinWait1, FinWait2, CloseWait, LastAck, Closing, Close}

// saveAndDiscard saves a connection and ends it silently.
func saveAndDiscard(t testing.TB, fd int) *Conn {
	t.Helper()
	b, err := Block(fd)
	check(t, err)
	s, err := Pause(fd)
	check(t, err)
	c := mustConn(t, s)
	check(t, s.Discard())
	check(t, b.Undo())
	return c
}

// mustConn saves a connection, whose timers may still be at work.
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

// saveFilled makes a pair, takes it to a state and saves end a: with bytes in
// the receive queue and, where the state has them, in flight and unsent. On
// a busy machine a timer can mark the unsent ones as sent in the middle of a
// save, see doc.go: then another pair is made.
func saveFilled(t testing.TB, state State, make func() *pair) (p *pair, c *Conn, hear func()) {
	t.Helper()
	for range 5 {
		p = make()
		hear = p.reach(state)
		if c = saveAndDiscard(t, p.a); filled(c) {
			return p, c, hear
		}
	}
	t.Fatalf("%v: %d bytes in, %d out, %d of them unsent: nothing is tested", c.State, c.InqLen, c.OutqLen, c.UnsqLen)
	return nil, nil, nil
}

func filled(c *Conn) bool {
	switch c.State {
	case Established, FinWait1, CloseWait, LastAck, Closing:
		return c.InqLen > 0 && c.UnsqLen > 0 && c.UnsqLen < c.OutqLen
	}
	return c.InqLen > 0
}

func TestRestoreInSameNamespace(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		for _, state := range states {
			t.Run(f.name+"/"+state.String(), func(t *testing.T) {
				t.Parallel()
				enterNetNS(t)
				p, c, hear := saveFilled(t, state, func() *pair { return loPair(t, f) })
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
				p, c, hear := saveFilled(t, state, func() *pair {
					return connectPair(t, f, f.a, f.b,
						func(fn func()) { from.do(t, fn) }, func(fn func()) { peer.do(t, fn) })
				})
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
