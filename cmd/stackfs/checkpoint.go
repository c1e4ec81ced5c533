package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A sink is where an image goes.
type sink struct {
	path string    // of a file; empty: out
	out  io.Writer // the standard output
}

// put writes an image, so that it lasts when put returns. A reader that does
// not read the standard output does not keep put from ending with ctx.
func (s sink) put(ctx context.Context, image []byte) error {
	fill := func(w io.Writer) error {
		_, err := w.Write(image)
		return err
	}
	if s.path != "" {
		return saveFile(s.path, true, fill)
	}
	const name = "standard output"
	done := make(chan error, 1)
	go func() {
		err := fill(imageWriter{s.out, name, true})
		if f, ok := s.out.(*os.File); ok && err == nil {
			if serr := syncIfFile(f); serr != nil {
				err = &writeError{name, true, reason(serr)}
			}
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return &writeError{name, true, context.Cause(ctx)}
	}
}

// checkpoint saves one connection, which goes on.
func (e env) checkpoint(ctx context.Context, ref connRef, to sink) error {
	// Opening the image is work for the daemon, reading this is none: one
	// that does not answer is stuck.
	if _, err := e.readConnFile(ctx, ref, "local"); err != nil {
		return err
	}
	image, err := e.readImage(ctx, ref)
	if err != nil {
		return err
	}
	return to.put(ctx, image)
}

// readImage reads the image of a connection, which the daemon makes when the
// file is opened.
func (e env) readImage(ctx context.Context, ref connRef) ([]byte, error) {
	image, err := within(ctx, ctlPatience*e.patience, func() ([]byte, error) {
		var b bytes.Buffer
		err := copyImage(&b, ref, make([]byte, 1<<20))
		return b.Bytes(), err
	})
	if err != nil {
		return nil, e.explainCheckpoint(ctx, err, ref)
	}
	return image, nil
}

// A daemon that does as much for a user as it may is asked again, for about a
// second.
const (
	busyTries = 100
	busyWait  = 10 * time.Millisecond
)

// copyImage writes the image of a connection to w. Errors are those of the
// mount and those of w.
func copyImage(w io.Writer, ref connRef, buf []byte) error {
	f, err := openMountFile(ref.path("checkpoint"), unix.O_RDONLY)
	for try := 0; errors.Is(err, syscall.EAGAIN) && try < busyTries; try++ {
		time.Sleep(busyWait)
		f, err = openMountFile(ref.path("checkpoint"), unix.O_RDONLY)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// Most images are small, and the kernel pins every page of a buffer.
	part := buf[:min(smallImage, len(buf))]
	for total := 0; ; part = buf {
		n, err := f.Read(part)
		if total += n; total == 0 && (err == nil || errors.Is(err, io.EOF)) {
			return errNoImage
		}
		if _, werr := w.Write(part[:n]); werr != nil {
			return werr
		}
		// The kernel reads short at the end alone: fuse(4).
		switch {
		case n < len(part) && err == nil, errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// smallImage is how many bytes are read of an image at first.
const smallImage = 4 << 10

var errNoImage = errors.New("the daemon gave no image")

// explainCheckpoint says what the error of a connection's checkpoint means.
// The daemon tells the reason in the file ctl; the errno alone says little.
func (e env) explainCheckpoint(ctx context.Context, err error, ref connRef) error {
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != syscall.ENOENT && errno != syscall.ENOTCONN && errno != syscall.ECONNABORTED {
		text, rerr := within(ctx, e.patience, func() (string, error) { return readMountFile(ref.path("ctl")) })
		if why, ok := strings.CutPrefix(strings.TrimSpace(text), "error: "); ok && rerr == nil {
			return &connError{ref.id, &ctlError{text: strings.TrimSuffix(why, ": "+errno.Error()), errno: errno}}
		}
	}
	return e.explainConn(ctx, err, ref)
}

// moveConn saves a connection and ends it here without a packet to the peer.
// It is held meanwhile: whatever fails, and if this process is killed, it
// goes on.
func (e env) moveConn(ctx context.Context, ref connRef, to sink) error {
	ctl, err := within(ctx, e.patience, func() (io.ReadWriteCloser, error) { return e.openCtl(ref.path("ctl")) })
	if err != nil {
		return e.explainConn(ctx, err, ref)
	}
	// Not closed on errors that leave a call under way, which uses it: with
	// the process it is.
	if err := e.orderConn(ctx, ctl, ref, "hold"); err != nil {
		return err
	}
	image, err := e.readImage(ctx, ref)
	if err == nil {
		err = to.put(ctx, image)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx) // what has begun is ended
	if err != nil {
		// To end this process would do it too, a moment later.
		_ = e.orderConn(ctx, ctl, ref, "resume")
		return fmt.Errorf("%w; the connection goes on", err)
	}
	if err := e.orderConn(ctx, ctl, ref, "release"); err != nil {
		return fmt.Errorf("%w; the image was written, but the connection may go on (stackfs conns %s %s)", err, ref.stack, ref.id)
	}
	return ctl.Close()
}

// orderConn writes one line to the open file ctl of a connection and waits
// for the answer.
func (e env) orderConn(ctx context.Context, ctl io.ReadWriter, ref connRef, line string) error {
	_, err := within(ctx, ctlPatience*e.patience, func() (string, error) { return converse(ctl, line) })
	var refused *ctlError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return &connError{ref.id, err}
	}
	return e.explainConn(ctx, err, ref)
}
