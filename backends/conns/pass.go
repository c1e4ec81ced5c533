package conns

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// errSilent is about a request that the kernel does not answer in time.
var errSilent = fmt.Errorf("the kernel does not answer: sock_diag is busy, or blocked by a socket whose owner keeps its lock: %w", syscall.ETIMEDOUT)

// A passes runs a function that looks at everything, one call after another.
// Who asks gets the result of a call that began after that; those who ask
// while one is running share the next.
type passes[R, T any] struct {
	run      func(asked []R) (T, error)
	patience time.Duration // errSilent after that; 0: never

	mu      sync.Mutex // guards the fields below
	running bool
	next    *pass[R, T] // nil: nobody waits for it
}

// A pass is one call of run.
type pass[R, T any] struct {
	asked []R
	done  chan struct{} // closed when the fields below are set
	got   T
	err   error
}

// share returns the result of a call of run that begins now or later.
func (p *passes[R, T]) share(ctx context.Context, what R) (T, error) {
	p.mu.Lock()
	c := p.next
	if c == nil {
		c = &pass[R, T]{done: make(chan struct{})}
		p.next = c
	}
	c.asked = append(c.asked, what)
	if !p.running {
		p.running = true
		go p.work()
	}
	p.mu.Unlock()
	var late <-chan time.Time
	if p.patience > 0 {
		t := time.NewTimer(p.patience)
		defer t.Stop()
		late = t.C
	}
	var none T
	select {
	case <-c.done:
		return c.got, c.err
	case <-late:
		return none, errSilent
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// work runs until nobody waits.
func (p *passes[R, T]) work() {
	for {
		p.mu.Lock()
		c := p.next
		p.next = nil
		if c == nil {
			p.running = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		c.got, c.err = p.run(c.asked)
		close(c.done)
	}
}
