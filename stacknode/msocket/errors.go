package msocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// An OpError says what failed on which stack.
type OpError struct {
	Op    string // "socket", "dial", "listen", "default", "restore"
	Stack string // path of the stack; empty: the kernel's own
	Err   error
}

func (e *OpError) Error() string {
	if e.Stack == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Stack + ": " + e.Err.Error()
}

func (e *OpError) Unwrap() error { return e.Err }

// Timeout implements net.Error.
func (e *OpError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// Temporary implements net.Error.
func (e *OpError) Temporary() bool { return e.Timeout() }

var _ net.Error = (*OpError)(nil)

// What the errors of a node mean, in words.
var (
	errGone      = fmt.Errorf("the stack or its daemon is gone: %w", syscall.ENODEV)
	errNoStack   = fmt.Errorf("not a stack: %w", syscall.ENOTSUP)
	errNoRestore = fmt.Errorf("the stack cannot restore connections: %w", syscall.EOPNOTSUPP)
	errNoFamily  = fmt.Errorf("address family not in this stack: %w", syscall.EAFNOSUPPORT)
)

// nodeError maps what open and ioctl return on a path to what it means.
func nodeError(err error) error {
	switch {
	case errors.Is(err, unix.ENOTCONN), // open below a mount whose daemon has died
		errors.Is(err, unix.ECONNABORTED), // it died while this call waited
		errors.Is(err, unix.ESHUTDOWN),
		errors.Is(err, unix.EIO),
		errors.Is(err, unix.ENODEV):
		return errGone
	case errors.Is(err, unix.ENOTDIR), // O_DIRECTORY on anything else
		errors.Is(err, unix.ENOTTY), // no ioctls, or not ours
		errors.Is(err, unix.ENOSYS):
		return errNoStack
	case errors.Is(err, unix.EAFNOSUPPORT):
		return errNoFamily
	}
	return err
}

// contextError gives a wait that ended with its context the context's error.
func contextError(ctx context.Context, err error) error {
	if cerr := ctx.Err(); cerr != nil && err != nil {
		return cerr
	}
	return err
}
