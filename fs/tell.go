package fs

import (
	"context"
	"time"
)

// tell makes the kernel forget something, on a goroutine of its own: it may
// hold a directory for the very request that this is part of. What is told
// is told in order.
func (t *tree) tell(notify func()) {
	done := make(chan struct{})
	t.mu.Lock()
	before := t.told
	t.told = done
	t.mu.Unlock()
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		notify()
	}()
}

// waitTold returns when the kernel has taken in all that it was told, so
// that an order that was carried out can be seen. It must not be called in
// a request for which the kernel holds a directory; should it wait for one
// nevertheless, it gives up when the caches expire by themselves.
func (t *tree) waitTold(ctx context.Context) {
	t.mu.Lock()
	told := t.told
	t.mu.Unlock()
	if told == nil {
		return
	}
	select {
	case <-told:
	case <-ctx.Done():
	case <-time.After(cacheTime):
	}
}
