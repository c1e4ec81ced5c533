package conns

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// How long the lock of a socket is waited for.
const (
	detailsPatience = time.Second      // to say more about a connection
	abortPatience   = 10 * time.Second // to end one
)

// asksPerUser is how many requests may wait for the locks of one user's
// sockets at a time. Each is a thread of the daemon.
const asksPerUser = 64

// errLocked is about a socket whose owner keeps its lock, by a send from
// memory that never arrives for instance.
var errLocked = fmt.Errorf("the socket is locked by its owner: %w", syscall.ETIMEDOUT)

// A locks makes the requests for which the kernel takes the lock of a socket.
// Its owner can keep that, and the thread that asks with it, for as long as he
// likes; who asked need not wait for that, and the threads do not pile up.
type locks struct {
	lanes sync.Map // uid of the socket -> chan struct{}, with one element for each request
}

// ask calls fn, which takes the lock of a socket of uid's. Returns errLocked
// if that takes longer than patience, and an error of ctx; then fn goes on.
func ask[T any](ctx context.Context, l *locks, uid uint32, patience time.Duration, fn func() (T, error)) (T, error) {
	type result struct {
		got T
		err error
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	v, _ := l.lanes.LoadOrStore(uid, make(chan struct{}, asksPerUser))
	lane := v.(chan struct{})
	done := make(chan result, 1)
	begin := (chan<- struct{})(lane)
	for {
		var none T
		select {
		case begin <- struct{}{}:
			begin = nil // once
			go func() {
				defer func() { <-lane }()
				got, err := fn()
				done <- result{got, err}
			}()
		case r := <-done:
			return r.got, r.err
		case <-late.C:
			return none, errLocked
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
}
