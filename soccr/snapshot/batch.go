package snapshot

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/stackfs/stackfs/soccr"
)

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
	switch {
	case s.closed:
		return nil, ErrClosed
	case s.stuck[ns.Key]:
		return nil, ErrStuck
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

// A pass costs nearly the same for one connection and for hundreds. So where
// the last batches were a crowd's, the next one waits for more while they keep
// coming, with gaps of less than gatherGap, for gatherTime at most. A crowd is
// forgotten by halves: on a busy machine there are longer gaps.
const (
	crowd      = 2 // requests
	gatherGap  = 4 * time.Millisecond
	gatherTime = 100 * time.Millisecond
)

// gather returns when it is time to begin a batch, which may be at once.
func (s *Snapshotter) gather(b *batch) {
	for end, last := time.Now().Add(gatherTime), 0; ; time.Sleep(gatherGap) {
		s.mu.Lock()
		n, full, crowded := b.waiting, len(b.results) >= maxSlots, s.size >= crowd
		s.mu.Unlock()
		if !crowded || n == last || full || time.Now().After(end) {
			return
		}
		last = n
	}
}

// run waits for its turn, closes the batch for others and does it.
func (s *Snapshotter) run(b *batch) {
	defer s.running.Done()
	defer close(b.done)
	s.gather(b)
	s.pass.Lock()
	defer s.pass.Unlock()
	s.mu.Lock()
	delete(s.pending, b.ns.Key)
	s.size = max(b.waiting, s.size/2)
	unwanted := b.waiting == 0
	s.mu.Unlock()
	if unwanted {
		return
	}
	if s.engine == nil {
		if s.engine, b.err = newEngine(&s.facts, &s.passes); b.err != nil {
			return
		}
	}
	if b.err = s.engine.takeAll(b.ns, b.results); errors.Is(b.err, ErrStuck) {
		s.abandon(b.ns.Key)
		return
	}
	s.shrinkLater()
}

// abandon gives up the engine, which waits for a socket of a namespace. That
// namespace has no snapshots until it gets the socket; for the others the
// next batch makes a new engine. The caller holds s.pass.
func (s *Snapshotter) abandon(key any) {
	e := s.engine
	s.engine = nil
	s.mu.Lock()
	s.stuck[key] = true
	s.mu.Unlock()
	s.log.Warn("a snapshot waits for the lock of a socket", "netns", key, "after", e.patience)
	go func() {
		<-e.reading
		if err := e.release(); err != nil {
			s.log.Warn("cannot free a snapshot engine", "err", err)
		}
		s.mu.Lock()
		delete(s.stuck, key)
		s.mu.Unlock()
	}()
}

// shrinkLater gives the memory of a large arena back when there was no batch
// for a while. The caller holds s.pass.
func (s *Snapshotter) shrinkLater() {
	s.used = time.Now()
	s.blocks.Store(int64(s.engine.arena.blocks()))
	if s.engine.arena.blocks() == arenaBlocks[0] {
		return
	}
	if s.shrink == nil {
		s.shrink = time.AfterFunc(idleTime, s.shrinkNow)
		return
	}
	s.shrink.Reset(idleTime)
}

func (s *Snapshotter) shrinkNow() {
	s.pass.Lock()
	defer s.pass.Unlock()
	if s.engine == nil || s.engine.arena.blocks() == arenaBlocks[0] || time.Since(s.used) < idleTime {
		return // the last: shrinkLater was faster
	}
	if err := s.engine.setArena(arenaBlocks[0]); err != nil {
		s.log.Warn("cannot make the snapshot arena small again", "err", err)
	}
	s.blocks.Store(int64(s.engine.arena.blocks()))
}
