package freeze

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The states of a thread.
const (
	running = iota
	stopped
	over
)

// A thread is one that we trace.
type thread struct {
	pid, tid int
	state    int
	sleep    sleep // what was seen of it before it was interrupted

	interrupted bool

	// signal is to be delivered when it goes on: it stopped because the
	// signal was about to be delivered, before the interrupt.
	signal syscall.Signal
	// jobStop tells that SIGSTOP or its kin had stopped it.
	jobStop bool
	call    *call // the call that was given back and has a timeout, else nil
}

func (th *thread) wrap(what string, err error) error {
	return fmt.Errorf("%s thread %d of process %d (%s): %w", what, th.tid, th.pid, commandOf(th.pid), err)
}

// How often a refusal is questioned, a millisecond apart. While the process
// exchanges its threads by exec, one may be a zombie for the kernel and alive
// for whoever looks next. An earlier worker of ours, which could not let go of
// everything, does so when its thread has ended.
const (
	seizeTries     = 20
	seizeTriesOurs = 250
)

// seize makes this thread the tracer. ok is false if the thread has ended.
func (th *thread) seize() (ok bool, err error) {
	limit := seizeTries
	for try := 0; try < limit; try++ {
		err = unix.PtraceSeize(th.tid)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.ESRCH):
			return false, nil
		case !errors.Is(err, unix.EPERM):
			return false, th.wrap("trace", err)
		}
		st, serr := readStat(th.pid, th.tid)
		if errors.Is(serr, ErrGone) || serr == nil && st.ended() {
			return false, nil
		}
		switch by := tracerOf(th.pid, th.tid); by {
		case 0:
		case os.Getpid():
			limit = seizeTriesOurs
		default:
			return false, &TracedError{PID: th.pid, Command: commandOf(th.pid), Tracer: by, TracerCommand: commandOf(by)}
		}
		yield(time.Millisecond)
	}
	return false, th.wrap("trace", err)
}

// eventStop is PTRACE_EVENT_STOP: an interrupt, or a stop by a signal of job
// control.
const eventStop = 128

// halted notes why the thread stopped. status is a signal and, in the second
// byte, an event of ptrace(2).
func (th *thread) halted(status int) {
	th.state = stopped
	signal, event := syscall.Signal(status&0xff), status>>8
	switch {
	case event != eventStop:
		th.signal = signal
	case signal != unix.SIGTRAP:
		th.jobStop = true
	}
}

// detach lets the thread go on after it stood still for held. It returns
// false if the thread was killed.
func (th *thread) detach(c *calls, held time.Duration) bool {
	if th.call != nil && held > time.Millisecond {
		_ = th.call.apply(th.tid, c) // it fails if the thread was killed
	}
	return detach(th.tid, th.signal) == nil
}

// lateError is that of a freeze that was given up by its caller, or took too
// long since that thread did not stop.
func lateError(ctx context.Context, pid, tid int) error {
	if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return stuck(pid, tid)
}

func stuck(pid, tid int) error {
	e := &StuckError{PID: pid, TID: tid, Command: commandOf(pid), State: '?', Where: sleepsIn(pid, tid)}
	if st, err := readStat(pid, tid); err == nil {
		e.State = st.state
	}
	return e
}
