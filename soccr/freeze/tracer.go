package freeze

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A tracer freezes one process: by its worker, since ptrace(2) lets only the
// thread that seized another one handle it.
type tracer struct {
	pid   int
	calls *calls
	dead  atomic.Bool // every thread of the process has ended

	// What follows is the worker's own.
	threads map[int]*thread
	since   time.Time // when the last of them stopped

	began time.Time     // the first interrupt
	stood time.Duration // from then to the last detach; to be read after thaw
}

func (t *tracer) gone() bool { return t.dead.Load() }

// freeze stops every thread. One that was not there when the threads were
// listed can only come from one that had not stopped yet; so when all have
// stopped, a further list has no new one, and then all are still stopped,
// there is none.
func (t *tracer) freeze(ctx context.Context) error {
	var graves undertaker
	defer graves.open()()
	for {
		fresh, err := t.seize(&graves)
		if err != nil {
			return err
		}
		if fresh == 0 {
			if all, err := t.stopped(); all || err != nil {
				return err
			}
			if ctx.Err() != nil {
				return lateError(ctx, t.pid, t.pid)
			}
		}
		if err := t.await(ctx); err != nil {
			return err
		}
	}
}

// stopped looks at all threads again.
func (t *tracer) stopped() (all bool, err error) {
	all = true
	for _, th := range t.threads {
		if err := t.look(th); err != nil {
			return false, err
		}
		if th.state != stopped {
			all = false
		}
	}
	if len(t.threads) == 0 {
		return false, t.alive()
	}
	t.since = time.Now()
	return all, nil
}

// alive returns ErrGone if the process has no thread that is not a zombie.
func (t *tracer) alive() error {
	tids, err := readThreads(t.pid)
	if err != nil {
		return err
	}
	for _, tid := range tids {
		if st, err := readStat(t.pid, tid); err == nil && !st.ended() {
			return nil // exec has exchanged all that we had
		}
	}
	return fmt.Errorf("process %d: %w", t.pid, ErrGone)
}

// seize seizes and interrupts the threads that are not yet, and returns how
// many these are.
func (t *tracer) seize(graves *undertaker) (int, error) {
	tids, err := readThreads(t.pid)
	if err != nil {
		return 0, err
	}
	var fresh []*thread
	clocks := clocks{}
	for _, tid := range tids {
		if t.threads[tid] == nil {
			fresh = append(fresh, &thread{pid: t.pid, tid: tid, sleep: observe(t.pid, tid, clocks)})
		}
	}
	seized := fresh[:0]
	for _, th := range fresh {
		ok, err := th.seize()
		if err != nil {
			return 0, err
		}
		if ok {
			t.threads[th.tid] = th
			if th.tid != th.pid { // exec does not wait for that
				graves.watch(th.tid)
			}
			seized = append(seized, th)
		}
	}
	if t.began.IsZero() {
		t.began = time.Now()
	}
	for _, th := range seized {
		// ESRCH: it has ended.
		if err := unix.PtraceInterrupt(th.tid); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, th.wrap("interrupt", err)
		}
		th.interrupted = true
	}
	return len(seized), nil
}

// await waits until every thread that was interrupted has stopped or ended.
// There is no wait for one of several threads with a time limit, so it looks
// again and again, at first without a pause: a thread that sleeps stops
// within some microseconds.
func (t *tracer) await(ctx context.Context) error {
	const long = time.Millisecond
	for nap := time.Duration(0); ; nap = min(nap+nap/2+time.Microsecond, long) {
		var moving *thread
		for _, th := range t.threads {
			// One that calls exec waits for us to take note of those that
			// the kernel killed for it, and then has another number.
			if !th.interrupted || th.state == stopped && nap < long {
				continue
			}
			if err := t.look(th); err != nil {
				return err
			}
			if th.state == running {
				moving = th
			}
		}
		if moving == nil {
			return nil
		}
		if ctx.Err() != nil {
			return lateError(ctx, moving.pid, moving.tid)
		}
		yield(nap)
	}
}

// look notes what has become of a thread.
func (t *tracer) look(th *thread) error {
	what, status, err := peek(th.tid)
	switch {
	case errors.Is(err, unix.ECHILD):
		t.forget(th)
		if t.threads[th.pid] != nil {
			// It called exec, which gave it the number of the first thread.
			t.threads[th.pid] = &thread{pid: th.pid, tid: th.pid, interrupted: true}
		}
		return nil
	case err != nil:
		return th.wrap("wait for", err)
	case what == ended:
		t.bury(th)
		return nil
	case what == nothing:
		th.state = running
		return nil
	case th.state == stopped:
		return nil
	}
	th.halted(status)
	return th.giveBack(t.calls)
}

// bury takes note of a thread's end, so that the kernel passes it on to the
// parent of the process. Our own child is left to whoever waits for it.
func (t *tracer) bury(th *thread) {
	t.forget(th)
	if th.tid == th.pid {
		if st, err := readStat(th.pid, th.tid); err == nil && st.parent == unix.Getpid() {
			return
		}
	}
	reap(th.tid)
}

func (t *tracer) forget(th *thread) {
	th.state = over
	delete(t.threads, th.tid)
	if len(t.threads) == 0 {
		t.dead.Store(true)
	}
}

// reap takes note of threads that were killed.
func (t *tracer) reap() {
	for _, th := range t.threads {
		_ = t.look(th) // it fails for a thread that stops, and none does now
	}
}

// thaw lets the threads go that have stopped. clean tells that none is left,
// which only the end of the worker can let go: one that did not stop, or was
// killed and has not ended yet.
func (t *tracer) thaw() (clean bool) {
	held := time.Since(t.since)
	for tid, th := range t.threads {
		if th.state == stopped && th.detach(t.calls, held) {
			delete(t.threads, tid)
		}
	}
	t.stood = time.Since(t.began)
	t.reap()
	return len(t.threads) == 0
}

// undo is thaw after a freeze that failed. What was interrupted gets some
// time to stop, so that its call can be given back.
func (t *tracer) undo() (clean bool) {
	ctx, cancel := context.WithTimeout(context.Background(), undoPatience)
	defer cancel()
	// It fails for each thread whose call cannot be given back, which has
	// stopped then, and at the end of the time.
	for t.await(ctx) != nil && ctx.Err() == nil {
	}
	return t.thaw()
}

// undoPatience is how long undo waits.
const undoPatience = 10 * time.Millisecond
