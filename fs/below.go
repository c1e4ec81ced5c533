package fs

import (
	"context"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// belowNode is an entry of the directory mounted over. A device carries its
// real number, so opening it opens the device without us; a symbolic link
// is followed by whoever reads it. Anything else can be looked at only: the
// daemon would have to open it as root, in a directory in which somebody
// else may exchange it for a link meanwhile.
type belowNode struct {
	fs.Inode
	root *rootNode
	name string
}

var (
	_ = (fs.NodeGetattrer)((*belowNode)(nil))
	_ = (fs.NodeSetattrer)((*belowNode)(nil))
	_ = (fs.NodeReadlinker)((*belowNode)(nil))
	_ = (fs.NodeOpener)((*belowNode)(nil))
	_ = (fs.NodeOpendirer)((*belowNode)(nil))
)

// open returns the entry itself, not what a link in its place leads to, and
// only while it is the one that was looked up.
func (n *belowNode) open() (*os.File, *syscall.Stat_t, error) {
	f, err := openEntry(n.root.under, n.name)
	if err != nil {
		return nil, nil, err
	}
	st, err := fstat(f)
	if err == nil && belowIno(st) != n.StableAttr().Ino {
		err = syscall.ESTALE
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

func (n *belowNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f, st, err := n.open()
	if err != nil {
		return n.root.tree.errno("getattr", err)
	}
	defer f.Close()
	out.FromStat(st)
	return 0
}

// Setattr changes mode and owner of the entry itself: what root and udev do
// to /dev/net/tun is done to the real one.
func (n *belowNode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	f, st, err := n.open()
	if err != nil {
		return n.root.tree.errno("setattr", err)
	}
	defer f.Close()
	if mode, ok := in.GetMode(); ok {
		err = chmodEntry(f, mode)
	}
	uid, hasUID := in.GetUID()
	gid, hasGID := in.GetGID()
	if err == nil && (hasUID || hasGID) {
		owner := [2]int{-1, -1}
		if hasUID {
			owner[0] = int(uid)
		}
		if hasGID {
			owner[1] = int(gid)
		}
		err = chownEntry(f, owner[0], owner[1])
	}
	if err == nil {
		st, err = fstat(f)
	}
	if err != nil {
		return n.root.tree.errno("setattr", err)
	}
	out.FromStat(st)
	return 0
}

func (n *belowNode) Readlink(context.Context) ([]byte, syscall.Errno) {
	text, err := readlinkAt(n.root.under, n.name)
	return text, n.root.tree.errno("readlink", err)
}

func (n *belowNode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, unix.EOPNOTSUPP
}

func (n *belowNode) Opendir(context.Context) syscall.Errno { return unix.EOPNOTSUPP }
