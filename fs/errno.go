package fs

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"syscall"
)

// errno is the only place where an error becomes an errno. go-fuse's
// fs.ToErrno is not used: its fallback differs between versions.
func errno(log *slog.Logger, op string, err error) syscall.Errno {
	var e syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return syscall.ETIMEDOUT
	case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
		return syscall.EBADF
	case errors.Is(err, syscall.ENOSYS):
		// The kernel would remember it for the whole mount.
		return syscall.EOPNOTSUPP
	case errors.As(err, &e) && e != 0:
		return e
	case errors.Is(err, os.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, os.ErrExist):
		return syscall.EEXIST
	case errors.Is(err, os.ErrPermission):
		return syscall.EACCES
	case errors.Is(err, errors.ErrUnsupported):
		return syscall.EOPNOTSUPP
	}
	log.Error("unmapped error", "op", op, "err", err)
	return syscall.EIO
}
