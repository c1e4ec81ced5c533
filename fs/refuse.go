package fs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
)

// fixedDir is embedded in directories whose entries cannot be removed:
// without a method of ours go-fuse says that it was done.
type fixedDir struct{}

var (
	_ = (fs.NodeUnlinker)((*fixedDir)(nil))
	_ = (fs.NodeRmdirer)((*fixedDir)(nil))
)

func (fixedDir) Unlink(context.Context, string) syscall.Errno { return syscall.EPERM }
func (fixedDir) Rmdir(context.Context, string) syscall.Errno  { return syscall.EPERM }
