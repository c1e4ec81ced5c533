package fs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// fixedDir is embedded in directories whose entries nobody makes, moves or
// removes. Without methods of ours go-fuse says that a removal was done, and
// of the rest that the file system is read-only or cannot do it at all.
type fixedDir struct{}

var (
	_ = (fs.NodeUnlinker)((*fixedDir)(nil))
	_ = (fs.NodeRmdirer)((*fixedDir)(nil))
	_ = (fs.NodeMkdirer)((*fixedDir)(nil))
	_ = (fs.NodeMknoder)((*fixedDir)(nil))
	_ = (fs.NodeCreater)((*fixedDir)(nil))
	_ = (fs.NodeLinker)((*fixedDir)(nil))
	_ = (fs.NodeSymlinker)((*fixedDir)(nil))
	_ = (fs.NodeRenamer)((*fixedDir)(nil))
)

func (fixedDir) Unlink(context.Context, string) syscall.Errno { return syscall.EPERM }
func (fixedDir) Rmdir(context.Context, string) syscall.Errno  { return syscall.EPERM }

func (fixedDir) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (fixedDir) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (fixedDir) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

func (fixedDir) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (fixedDir) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (fixedDir) Rename(context.Context, string, fs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EPERM
}

// refuseOwner returns EPERM for a change of mode or owner. What is left is the
// truncation by which shells open a file that they write to, and times,
// which nobody needs.
func refuseOwner(in *fuse.SetAttrIn) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return syscall.EPERM
	}
	return 0
}
