package msocket

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// Restore makes a socket on the stack at path from the image of a TCP
// connection, as the file checkpoint of a connection gives it. The
// connection goes on where the image was made; its peer sees nothing of a
// restore that fails. The caller owns the file, which is close-on-exec.
//
// The image is read to its end. When ctx ends meanwhile the request goes on
// without anybody waiting for it, and a socket that is made is closed, which
// ends the connection.
//
// The error has the daemon's reason in words. Returns EADDRNOTAVAIL if the
// stack lacks the local address, EADDRINUSE if the connection is still there,
// EPERM if the image is not sealed for the caller and he lacks CAP_NET_ADMIN
// over the stack, EBADMSG for a damaged image, ENOBUFS if open images of the
// caller's hold too much memory, EFBIG for one that is too large, EOPNOTSUPP
// if the stack cannot restore, ENODEV if it or its daemon is gone.
func Restore(ctx context.Context, path string, image io.Reader) (*os.File, error) {
	f, err := abandon(ctx, func() (*os.File, error) { return restore(path, image) })
	if err != nil {
		return nil, &OpError{Op: "restore", Stack: path, Err: err}
	}
	return f, nil
}

// A refusedError is why the daemon did not do something, in its words.
type refusedError struct {
	text string
	err  error
}

func (e *refusedError) Error() string { return e.text }
func (e *refusedError) Unwrap() error { return e.err }

func restore(path string, image io.Reader) (*os.File, error) {
	f, err := openRestore(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := io.Copy(writer{f}, image); err != nil {
		return nil, err
	}
	conn, err := askPair(func(cookie uint64, fd int) error {
		r := uapi.Restore{ReplyCookie: cookie, ReplyFD: int32(fd)}
		b, err := r.MarshalBinary()
		if err != nil {
			return err
		}
		return ioctl(f, uapi.IocRestore, b)
	})
	if err != nil {
		return nil, refusal(f, err)
	}
	var c channel
	sock, err := c.start(conn, path)
	c.close()
	if errors.Is(err, errDead) {
		err = errGone
	}
	return sock, err
}

// A writer writes to a node, and tells its errors from those of what is
// written. It is no io.ReaderFrom: the files of a mount do not tell their
// size, by which the kernel would copy them.
type writer struct{ f *os.File }

func (w writer) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	var p *os.PathError
	if errors.As(err, &p) {
		err = nodeError(p.Err)
	}
	return n, err
}

// openRestore opens the file by which the stack at path takes images.
func openRestore(path string) (*os.File, error) {
	dir, err := openNode(path, false)
	if err != nil {
		return nil, err
	}
	dir.Close()
	f, err := openFile(filepath.Join(path, "restore"), unix.O_RDWR)
	if errors.Is(err, unix.ENOENT) {
		return nil, errNoRestore
	}
	if err != nil {
		return nil, nodeError(err)
	}
	return f, nil
}

// refusal gives err the words in which f answers why it failed.
func refusal(f *os.File, err error) error {
	text, rerr := io.ReadAll(io.LimitReader(f, 64<<10))
	words, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "error: ")
	if rerr != nil || !ok {
		return nodeError(err)
	}
	return &refusedError{words, err}
}
