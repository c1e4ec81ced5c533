package freeze

import (
	"sync"
	"time"
)

// An undertaker takes note of the ends of threads in the tracer's place.
//
// A program that calls exec kills its other threads, and the kernel waits
// until their tracer has noted it. To seize a thread of that program the
// tracer in turn waits for the exec, and no signal gets it out of that. Since
// any thread of the tracer's process may take the note, one does.
type undertaker struct {
	mu   sync.Mutex // guards tids
	tids []int
}

// undertakeEvery is how often it looks, which is rarely reached.
const undertakeEvery = 5 * time.Millisecond

func (u *undertaker) watch(tid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tids = append(u.tids, tid)
}

// open begins the work; the returned function ends it.
func (u *undertaker) open() (end func()) {
	quit := make(chan struct{})
	go func() {
		tick := time.NewTicker(undertakeEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				u.round()
			}
		}
	}()
	return func() { close(quit) }
}

func (u *undertaker) round() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, tid := range u.tids {
		if what, _, err := peek(tid); err == nil && what == ended {
			reap(tid)
		}
	}
}
