package stacknode

import (
	"fmt"
	"strings"
	"syscall"
)

// Each error wraps the errno that it means to a caller of msocket(3).
var (
	ErrNotFound     = fmt.Errorf("no such stack: %w", syscall.ENOENT)
	ErrExists       = fmt.Errorf("a stack of that name exists: %w", syscall.EEXIST)
	ErrBusy         = fmt.Errorf("the stack is in use: %w", syscall.EBUSY)
	ErrNotSupported = fmt.Errorf("address family not in this stack: %w", syscall.EAFNOSUPPORT)
	ErrProbe        = fmt.Errorf("address family is in this stack: %w", syscall.EINVAL)
	ErrClosed       = fmt.Errorf("the stack is gone: %w", syscall.ENODEV)
	ErrForeign      = fmt.Errorf("the stack serves its own network namespace only (foreign = false): %w", syscall.EACCES)
	ErrNoGrant      = fmt.Errorf("the caller lacks the capability over this stack and no grant gives it: %w", syscall.EPERM)
	ErrPermanent    = fmt.Errorf("the stack cannot be removed: %w", syscall.EPERM)
	ErrQuota        = fmt.Errorf("too many channels of this user: %w", syscall.EMFILE)
	ErrUseIoctl     = fmt.Errorf("not made on a channel: %w", syscall.ESTALE)

	ErrNoConn    = fmt.Errorf("no such connection: %w", syscall.ENOENT)
	ErrPaused    = fmt.Errorf("the connection is paused already: %w", syscall.EBUSY)
	ErrNotPaused = fmt.Errorf("the connection is not paused: %w", syscall.EINVAL)
)

// A BusyError says what keeps a stack from being removed. It matches ErrBusy.
type BusyError struct {
	Stack   string
	Reasons []string // "2 sockets", "process 71 (sleep)"
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("stack %s is in use: %s", e.Stack, strings.Join(e.Reasons, ", "))
}

func (e *BusyError) Unwrap() error { return ErrBusy }

// A HolderError names the process over which a caller lacks the rights that
// a connection asks for. It means EPERM.
type HolderError struct {
	PID     int
	Command string
	Reason  string // "belongs to another user", "not dumpable"
}

func (e *HolderError) Error() string {
	return fmt.Sprintf("process %d (%s) holds the connection and you may not trace it: %s", e.PID, e.Command, e.Reason)
}

func (e *HolderError) Unwrap() error { return syscall.EPERM }
