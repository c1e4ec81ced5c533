package freeze

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A worker is a thread that traces one process at a time. When it ends, the
// kernel lets go of whatever it still has.
type worker struct {
	jobs  chan func()
	ended chan struct{} // closed when it is about to end

	// The worker's own.
	current *tracer // what it has frozen
	life    *lifeline
}

// workers keeps some that have nothing to do.
type workers struct {
	announce Announce
	slow     atomic.Int32 // inotify instances in use

	mu   sync.Mutex // guards idle
	idle []*worker
}

// maxIdle is how many workers are kept.
const maxIdle = 2

// get returns an idle worker, or a new one.
func (p *workers) get() (*worker, error) {
	if w := p.take(); w != nil {
		return w, nil
	}
	w := &worker{jobs: make(chan func(), 1), ended: make(chan struct{})}
	ready := make(chan error, 1)
	go w.run(p, ready)
	return w, <-ready
}

// take returns an idle worker, nil if there is none.
func (p *workers) take() *worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	w := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return w
}

// done takes back a worker. One that is not clean ends.
func (p *workers) done(w *worker, clean bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if clean && len(p.idle) < maxIdle {
		p.idle = append(p.idle, w)
		return
	}
	close(w.jobs)
}

func (p *workers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.idle {
		close(w.jobs)
	}
	p.idle = nil
}

// reapEvery is how long a killed process stays unnoticed by its parent: its
// tracer has to take note of each thread's end first.
const reapEvery = 20 * time.Millisecond

// run is the thread's life.
func (w *worker) run(p *workers, ready chan<- error) {
	// Never unlocked: with the goroutine the thread ends.
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The first thread does not end. While it is locked here the next
		// goroutine is on another one.
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.run(p, ready)
		}()
		<-done
		runtime.UnlockOSThread()
		return
	}
	defer close(w.ended)
	var err error
	if p.announce != nil {
		w.life, err = newLifeline(p.announce, &p.slow)
	}
	ready <- err
	if err != nil {
		return
	}
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		var reap <-chan time.Time
		if w.current != nil {
			reap = tick.C
		}
		select {
		case job, ok := <-w.jobs:
			if !ok {
				w.life.farewell(&p.slow)
				return
			}
			job()
		case <-reap:
			w.current.reap()
		}
	}
}

// freeze freezes the process of t. With an error, late is set if the worker
// is stuck in the kernel: it lets go as soon as it comes back, and ends.
func (w *worker) freeze(ctx context.Context, t *tracer, p *workers) (late bool, err error) {
	type result struct {
		err   error
		clean bool
	}
	done := make(chan result, 1)
	w.jobs <- func() {
		if err := t.freeze(ctx); err != nil {
			done <- result{err, t.undo()}
			return
		}
		w.current = t
		done <- result{}
	}
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		select {
		case r = <-done:
		case <-time.After(workerGrace):
			w.jobs <- func() {
				w.current = nil
				t.thaw()
			}
			close(w.jobs)
			return true, lateError(ctx, t.pid, t.pid)
		}
	}
	if r.err != nil {
		p.done(w, r.clean)
	}
	return false, r.err
}

// workerGrace is how long a worker may take to notice that its time is over.
const workerGrace = 100 * time.Millisecond

// thaw lets the process of t go on.
func (w *worker) thaw(t *tracer, p *workers) {
	clean := make(chan bool, 1)
	w.jobs <- func() {
		w.current = nil
		clean <- t.thaw()
	}
	p.done(w, <-clean)
}
