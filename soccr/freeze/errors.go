package freeze

import (
	"fmt"
	"syscall"
)

// Each error wraps the errno that it means to a caller.
var (
	// ErrGone: the process has ended.
	ErrGone = fmt.Errorf("the process has ended: %w", syscall.ESRCH)
	// ErrArch: this machine is not an x86-64, or the kernel is too old.
	ErrArch = fmt.Errorf("processes can be frozen on x86-64 with Linux 5.14 or newer only: %w", syscall.EOPNOTSUPP)
)

// A TracedError says that a debugger or strace has the process already.
type TracedError struct {
	PID, Tracer            int
	Command, TracerCommand string
}

func (e *TracedError) Error() string {
	return fmt.Sprintf("process %d (%s) is being traced by process %d (%s)", e.PID, e.Command, e.Tracer, e.TracerCommand)
}

// Unwrap makes it EBUSY.
func (e *TracedError) Unwrap() error { return syscall.EBUSY }

// A StuckError says that a thread could not be stopped in time.
type StuckError struct {
	PID, TID int
	Command  string
	State    byte   // of proc_pid_stat(5): 'D' and so on
	Where    string // the kernel function in which it sleeps; empty: not known
}

func (e *StuckError) Error() string {
	where := ""
	if e.Where != "" {
		where = " in " + e.Where
	}
	return fmt.Sprintf("thread %d of process %d (%s) does not stop: state %c%s", e.TID, e.PID, e.Command, e.State, where)
}

// Unwrap makes it ETIMEDOUT.
func (e *StuckError) Unwrap() error { return syscall.ETIMEDOUT }
