package guardian

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
)

// Each error wraps the errno that it means to a caller.
var (
	// ErrDied: the guardian was killed in the middle; everything is put
	// back, and the next request has another guardian.
	ErrDied = fmt.Errorf("the guardian was killed: %w", syscall.ENODEV)
	// ErrUnheld: no process has a descriptor of the socket any more, or it
	// is under way from one to another.
	ErrUnheld = fmt.Errorf("no process has a descriptor of the connection any more: %w", syscall.ESTALE)

	errLimit  = fmt.Errorf("it was held for as long as asked: %w", stacknode.ErrNotPaused)
	errEnded  = fmt.Errorf("it is held no longer: %w", stacknode.ErrNotPaused)
	errMoved  = fmt.Errorf("its holders change all the time: %w", syscall.EAGAIN)
	errOurs   = fmt.Errorf("stackfs itself holds the connection: %w", syscall.EBUSY)
	errItself = fmt.Errorf("a program cannot have its own connection frozen, since it would wait for itself: %w", syscall.EDEADLK)
)

// sentinels keep what they are on the way through a message, by their place
// here.
var sentinels = []error{
	soccr.ErrNotFound, soccr.ErrEnded, soccr.ErrRepair, soccr.ErrChanged,
	stacknode.ErrPaused, stacknode.ErrNotPaused, context.Canceled, context.DeadlineExceeded,
	ErrUnheld, errLimit, errMoved, errOurs, errItself,
}

// A wireError is an error in a message.
type wireError struct {
	Text       string
	Errno      syscall.Errno          `json:",omitempty"`
	Sentinels  []int                  `json:",omitempty"`
	Holder     *stacknode.HolderError `json:",omitempty"`
	Unsaveable *soccr.UnsaveableError `json:",omitempty"`
}

func packError(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Text: err.Error()}
	if !errors.As(err, &w.Errno) {
		w.Errno = 0
	}
	for i, s := range sentinels {
		if errors.Is(err, s) {
			w.Sentinels = append(w.Sentinels, i)
		}
	}
	errors.As(err, &w.Holder)
	errors.As(err, &w.Unsaveable)
	return w
}

// A remoteError is an error of the guardian, as good as it was there.
type remoteError struct {
	text   string
	causes []error
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() []error { return e.causes }

func (w *wireError) unpack() error {
	if w == nil {
		return nil
	}
	e := &remoteError{text: w.Text}
	if w.Holder != nil {
		e.causes = append(e.causes, w.Holder)
	}
	if w.Unsaveable != nil {
		e.causes = append(e.causes, w.Unsaveable)
	}
	for _, i := range w.Sentinels {
		if i >= 0 && i < len(sentinels) {
			e.causes = append(e.causes, sentinels[i])
		}
	}
	if w.Errno != 0 {
		e.causes = append(e.causes, w.Errno)
	}
	return e
}
