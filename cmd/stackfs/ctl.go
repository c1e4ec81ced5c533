package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// ctlPatience is how many times longer than a read an order may take: it
// makes namespaces and links.
const ctlPatience = 12

// A ctlError is a refusal of the daemon.
type ctlError struct {
	text  string
	errno error // of the write; nil if that went well
}

func (e *ctlError) Error() string { return e.text }
func (e *ctlError) Unwrap() error { return e.errno }

// order writes one line to the file ctl of a mount and waits for the
// answer. It returns what follows the "ok".
func (e env) order(ctx context.Context, m mountPoint, line string) (string, error) {
	if strings.ContainsAny(line, "\n\x00") {
		return "", errors.New("an order is one line")
	}
	// Opening the file is no work: a daemon that does not do that is stuck.
	f, err := within(ctx, e.patience, func() (io.ReadWriteCloser, error) {
		return e.openCtl(filepath.Join(m.dir, stacknode.NameCtl))
	})
	if err != nil {
		return "", err
	}
	return within(ctx, ctlPatience*e.patience, func() (string, error) { return orderNow(f, line) })
}

func openCtl(path string) (io.ReadWriteCloser, error) {
	return openMountFile(path, unix.O_RDWR)
}

// orderNow writes one line to the open file ctl, reads the answer and closes
// the file.
func orderNow(f io.ReadWriteCloser, line string) (string, error) {
	defer f.Close()
	return converse(f, line)
}

// converse writes one line to an open file that takes orders and returns the
// answer, without the "ok".
func converse(f io.ReadWriter, line string) (string, error) {
	_, werr := io.WriteString(f, line+"\n")
	// The text of a refusal is there whether or not the write carried its
	// errno.
	answer, rerr := io.ReadAll(io.LimitReader(f, maxMountFile))
	text := strings.TrimRight(string(answer), "\n")
	if refusal, ok := strings.CutPrefix(text, "error: "); ok {
		var errno syscall.Errno
		if errors.As(werr, &errno) {
			// What the errno is called says less than the text before it.
			refusal = strings.TrimSuffix(refusal, ": "+errno.Error())
			return "", &ctlError{text: refusal, errno: errno}
		}
		return "", &ctlError{text: refusal}
	}
	if err := errors.Join(werr, rerr); err != nil {
		return "", err
	}
	if rest, ok := strings.CutPrefix(text, "ok"); ok {
		return strings.TrimLeft(rest, ":\n "), nil
	}
	return "", fmt.Errorf("the daemon answers %q, which is neither ok nor an error", text)
}

// explainOrder says what an order's error means; object is what the order
// was about and force the command that would not mind use.
func explainOrder(err error, object string, m mountPoint, force string) error {
	var refused *ctlError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		if errors.Is(err, syscall.EBUSY) && force != "" {
			return fmt.Errorf("%s: %w (%s)", object, err, force)
		}
		return fmt.Errorf("%s: %w", object, err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%s: only root may change the stacks of %s (sudo): %w", object, m.dir, reason(err))
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s: %s is mounted read-only: %w", object, m.dir, reason(err))
	}
	return explain(err, object, m.dir)
}

// exitCodeOf gives a refusal with one of these errnos another exit code than
// the errno itself has.
func exitCodeOf(err error, codes map[syscall.Errno]int) error {
	var (
		refused *ctlError
		errno   syscall.Errno
	)
	if errors.As(err, &refused) && errors.As(refused.errno, &errno) {
		if code, ok := codes[errno]; ok {
			return &exitStatus{code, err}
		}
	}
	return err
}
