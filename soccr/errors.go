package soccr

import (
	"fmt"
	"syscall"
)

// Each error wraps the errno that it means to a caller.
var (
	// ErrNotFound: no socket has that cookie (any more).
	ErrNotFound = fmt.Errorf("no such connection: %w", syscall.ENOENT)
	// ErrEnded: the connection ended between being found and being saved.
	ErrEnded = fmt.Errorf("the connection has ended: %w", syscall.ESTALE)
	// ErrRepair: somebody else holds the socket in repair mode.
	ErrRepair = fmt.Errorf("another program holds the socket in repair mode: %w", syscall.EBUSY)
	// ErrChanged: the connection moved while it was being saved.
	ErrChanged = fmt.Errorf("the connection changed while it was being saved: %w", syscall.EAGAIN)
)

// An UnsaveableError says why a connection cannot be saved.
type UnsaveableError struct {
	Reason string // "3 bytes of urgent data", "kTLS"
}

func (e *UnsaveableError) Error() string { return "not saveable: " + e.Reason }

// Unwrap makes it EOPNOTSUPP.
func (e *UnsaveableError) Unwrap() error { return syscall.EOPNOTSUPP }
