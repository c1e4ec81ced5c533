package snapshot

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
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
// closed, or if the iterator fails altogether, for instance because Do does.
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

// A batch is what is taken of one namespace together. Until it begins,
// requests join it.
type batch struct {
	ns      NetNS
	results map[uint64]*shared // by cookie
	waiting int                // requests; guarded by Snapshotter.mu

	done chan struct{} // closed when results and err are complete
	err  error
}

// shared is a result that several requests may get.
type shared struct {
	Result
	repair bool // the socket was in repair mode

	mu    sync.Mutex
	given bool // Conn belongs to somebody
}

// hand returns the result for one request, who holds the socket or not.
func (r *shared) hand(held bool) Result {
	if r.repair && !held && (r.Err == nil || errors.Is(r.Err, ErrQueue)) {
		return Result{Err: soccr.ErrRepair, Held: r.Held}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	mine := r.Result
	if r.given && r.Conn != nil {
		mine.Conn = clone(r.Conn)
	}
	r.given = true
	return mine
}

// clone copies a connection with all its memory.
func clone(c *soccr.Conn) *soccr.Conn {
	n := *c
	n.Recv, n.Send = bytes.Clone(c.Recv), bytes.Clone(c.Send)
	n.Options = maps.Clone(c.Options)
	n.Info.Lost = slices.Clone(c.Info.Lost)
	return &n
}

// join adds a request to the batch of its namespace that has not begun yet.
func (s *Snapshotter) join(ns NetNS, cookies []uint64) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	b := s.pending[ns.Key]
	if b == nil {
		b = &batch{ns: ns, results: make(map[uint64]*shared), done: make(chan struct{})}
		s.pending[ns.Key] = b
		s.running.Add(1)
		go s.run(b)
	}
	b.waiting++
	for _, cookie := range cookies {
		if b.results[cookie] == nil {
			b.results[cookie] = &shared{Result: Result{Err: soccr.ErrNotFound}}
		}
	}
	return b, nil
}

// leave takes back a request. A batch that nobody waits for is not begun.
func (s *Snapshotter) leave(b *batch) {
	s.mu.Lock()
	b.waiting--
	s.mu.Unlock()
}

// run waits for its turn, closes the batch for others and does it.
func (s *Snapshotter) run(b *batch) {
	defer s.running.Done()
	s.pass.Lock()
	defer s.pass.Unlock()
	s.mu.Lock()
	delete(s.pending, b.ns.Key)
	unwanted := b.waiting == 0
	s.mu.Unlock()
	if !unwanted {
		b.err = s.takeAll(b.ns, b.results)
	}
	close(b.done)
}
