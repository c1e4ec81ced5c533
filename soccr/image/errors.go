package image

import (
	"fmt"
	"strings"
	"syscall"
)

// Each error of this package wraps one of these; the text says what is wrong
// and, for a damaged file, at which byte.
var (
	// ErrDamaged: the file is no image, or is not as it was written.
	ErrDamaged = fmt.Errorf("damaged image: %w", syscall.EBADMSG)
	// ErrVersion: a later version of the program has written the image.
	ErrVersion = fmt.Errorf("image of a later version: %w", syscall.EPROTONOSUPPORT)
	// ErrInvalid: the image says something that no connection can be.
	ErrInvalid = fmt.Errorf("not a connection: %w", syscall.EINVAL)
	// ErrSeal: the image does not have the seal of the key.
	ErrSeal = fmt.Errorf("seal: %w", syscall.EPERM)
	// ErrNoMatch: the dump has no such connection.
	ErrNoMatch = fmt.Errorf("not in the dump: %w", syscall.ENOENT)
	// ErrAmbiguous: the dump has several such connections.
	ErrAmbiguous = fmt.Errorf("several in the dump: %w", syscall.EINVAL)
)

// A problem has a text for people in place of that of its sentinel.
type problem struct {
	sentinel error
	text     string
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.sentinel }

func problemf(sentinel error, format string, args ...any) error {
	return &problem{sentinel, fmt.Sprintf(format, args...)}
}

// damagedf says what is wrong at the byte off of the file.
func damagedf(off int, format string, args ...any) error {
	return problemf(ErrDamaged, "byte %d: %s", off, fmt.Sprintf(format, args...))
}

func invalidf(format string, args ...any) error {
	return problemf(ErrInvalid, format, args...)
}

// why is the text of an error of package proto, which puts a blank that is
// none into some of them so that nobody compares them.
func why(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimPrefix(text, "proto: ")
}
