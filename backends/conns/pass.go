package conns

import (
	"context"
	"sync"
)

// A passes runs a function that looks at everything, one call after another.
// Who asks gets the result of a call that began after that; those who ask
// while one is running share the next.
type passes[R, T any] struct {
	run func(asked []R) (T, error)

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
	select {
	case <-c.done:
		return c.got, c.err
	case <-ctx.Done():
		var none T
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
