package snapshot

import (
	"context"
	"time"

	"github.com/stackfs/stackfs/soccr"
)

// NetNS is the network namespace that sockets are in.
type NetNS struct {
	// Key says which it is: equal keys are the same namespace. It is
	// comparable.
	Key any
	// Do runs a function on a thread in the namespace and returns its
	// error. It is called from another goroutine, a few times, also for
	// other requests with the same Key, and shortly after a Take whose ctx
	// ended. The thread needs CAP_BPF or CAP_SYS_ADMIN.
	Do func(func() error) error
}

// A Result is what became of one connection.
type Result struct {
	// Conn is nil if there is an error. It belongs to the caller, with all
	// its memory.
	Conn *soccr.Conn
	// Err wraps soccr.ErrNotFound, soccr.ErrEnded, soccr.ErrRepair, an
	// [*soccr.UnsaveableError] or [ErrQueue].
	Err error
	// Held is how long the socket was locked. Zero if it was not found.
	Held time.Duration
}

// Take takes snapshots of the connections in a namespace that have these
// cookies (SO_COOKIE), and returns the results in their order. A snapshot
// shows the connection as it was at a moment between call and return, each
// at its own. Calls for one namespace that overlap share the work.
//
// A connection is not found if the kernel's table does not have it: sockets
// in CLOSE are in none. One in TIME_WAIT has ended. One that is in repair
// mode is refused with soccr.ErrRepair: its numbers may be set at any moment
// by whoever holds it; see [Snapshotter.TakeHeld].
//
// Take returns an error, and no results, if ctx ends, if the Snapshotter is
// closed, or if the iterator fails altogether, for instance because Do does;
// [ErrStuck] after 10 s, or at once in a namespace where that is known, if
// the owner of any socket there keeps its lock.
func (s *Snapshotter) Take(ctx context.Context, ns NetNS, cookies []uint64) ([]Result, error) {
	return s.take(ctx, ns, cookies, false)
}

// TakeHeld is Take for connections that the caller holds in repair mode
// itself.
func (s *Snapshotter) TakeHeld(ctx context.Context, ns NetNS, cookies []uint64) ([]Result, error) {
	return s.take(ctx, ns, cookies, true)
}

func (s *Snapshotter) take(ctx context.Context, ns NetNS, cookies []uint64, held bool) ([]Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(cookies) == 0 {
		return nil, nil
	}
	b, err := s.join(ns, cookies)
	if err != nil {
		return nil, err
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		s.leave(b)
		return nil, ctx.Err()
	}
	if b.err != nil {
		return nil, b.err
	}
	results := make([]Result, len(cookies))
	for i, cookie := range cookies {
		results[i] = b.results[cookie].hand(held)
	}
	return results, nil
}
