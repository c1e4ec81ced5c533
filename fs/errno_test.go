package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"testing"

	"github.com/stackfs/stackfs/stacknode"
)

func TestErrno(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, tt := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{stacknode.ErrClosed, syscall.ENODEV},
		{fmt.Errorf("stack a: %w", &stacknode.BusyError{Stack: "a"}), syscall.EBUSY},
		{fmt.Errorf("x: %w", os.NewSyscallError("socket", syscall.EPROTONOSUPPORT)), syscall.EPROTONOSUPPORT},
		{os.ErrNotExist, syscall.ENOENT},
		{os.ErrPermission, syscall.EACCES},
		{context.Canceled, syscall.EINTR},
		{context.DeadlineExceeded, syscall.ETIMEDOUT},
		{os.ErrClosed, syscall.EBADF},
		{errors.ErrUnsupported, syscall.EOPNOTSUPP},
		{syscall.ENOSYS, syscall.EOPNOTSUPP},
		{errors.New("?"), syscall.EIO},
	} {
		if got := errno(log, "test", tt.err); got != tt.want {
			t.Errorf("errno(%v): got %v, want %v", tt.err, got, tt.want)
		}
	}
}
