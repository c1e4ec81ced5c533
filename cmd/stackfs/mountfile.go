package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxMountFile is the most that is read of one file of a mount, in bytes.
const maxMountFile = 1 << 20

// within runs f, which talks to a daemon, and gives up waiting for it after
// limit with errNoAnswer. f then goes on by itself; its result is dropped.
func within[T any](ctx context.Context, limit time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w within %v", errNoAnswer, limit))
	defer cancel()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// A mountFile is an open file of a mount. It keeps clear of the poller of
// the runtime, which would ask the daemon whether the file can be polled.
type mountFile struct {
	fd   int
	path string
}

// openMountFile opens path without ever waiting for a writer or following a
// link.
func openMountFile(path string, flags int) (*mountFile, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err == nil {
			return &mountFile{fd, path}, nil
		}
		if err != unix.EINTR {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

func (f *mountFile) Close() error { return unix.Close(f.fd) }

func (f *mountFile) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(f.fd, p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, &os.PathError{Op: "read", Path: f.path, Err: err}
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write makes one system call, so that the daemon sees one line.
func (f *mountFile) Write(p []byte) (int, error) {
	n, err := unix.Write(f.fd, p)
	if err != nil {
		return 0, &os.PathError{Op: "write", Path: f.path, Err: err}
	}
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// readMountFile returns the contents of a small file.
func readMountFile(path string) (string, error) {
	f, err := openMountFile(path, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMountFile))
	return string(text), err
}
