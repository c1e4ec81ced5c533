package fs

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

// connNode is the directory of a connection or of a listener.
type connNode struct {
	fs.Inode
	fixedDir
	connRef
}

var (
	_ = (fs.NodeGetattrer)((*connNode)(nil))
	_ = (fs.NodeLookuper)((*connNode)(nil))
	_ = (fs.NodeReaddirer)((*connNode)(nil))
)

func (n *connNode) attr(a *fuse.Attr, uid uint32) {
	a.Mode = syscall.S_IFDIR | 0o555
	a.Owner.Uid = uid
	a.Nlink = 2
	t := n.of.stack.Created()
	a.SetTimes(&t, &t, &t)
}

func (n *connNode) Getattr(ctx context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	c, err := n.get(ctx)
	if err != nil {
		return n.of.tree.errno("getattr", ended(err))
	}
	n.attr(&out.Attr, c.UID)
	out.SetTimeout(cacheTime)
	return 0
}

// connFiles are the files of a connection. The last ones are there if the
// backend is a Checkpointer, and not for a listener.
var connFiles = [...]struct {
	name   string
	file   uint64
	mode   uint32
	powers bool
	node   func() connFile
}{
	{"local", connLocal, 0o444, false, func() connFile { return &connTextNode{text: localText} }},
	{"remote", connRemote, 0o444, false, func() connFile { return &connTextNode{text: remoteText} }},
	{"status", connStatus, 0o444, false, func() connFile { return &connTextNode{text: connStatusText} }},
	{"info", connInfo, 0o444, false, func() connFile { return &connTextNode{text: connInfoText} }},
	{"checkpoint", connCheckpoint, 0o400, true, func() connFile { return &checkpointNode{} }},
	{"ctl", connCtl, 0o600, true, func() connFile { return &connCtlNode{} }},
}

// has tells whether a connection or listener has file i of connFiles.
func (n *connNode) has(i int) bool {
	if n.listener {
		return !connFiles[i].powers && connFiles[i].file != connRemote
	}
	_, ok := n.of.stack.Backend().(stacknode.Checkpointer)
	return ok || !connFiles[i].powers
}

func (n *connNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	for i, f := range connFiles {
		if f.name != name || !n.has(i) {
			continue
		}
		c, err := n.get(ctx)
		if err != nil {
			return nil, n.of.tree.errno("lookup", err)
		}
		node := f.node()
		node.is(n.connRef, f.mode)
		node.attr(&out.Attr, c.UID)
		brief(out)
		return n.NewInode(ctx, node, n.id(syscall.S_IFREG, f.file)), 0
	}
	return nil, syscall.ENOENT
}

func (n *connNode) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	if _, err := n.get(ctx); err != nil {
		return nil, n.of.tree.errno("readdir", ended(err))
	}
	list := make([]fuse.DirEntry, 0, len(connFiles))
	for i, f := range connFiles {
		if n.has(i) {
			list = append(list, fuse.DirEntry{Name: f.name, Mode: syscall.S_IFREG, Ino: n.id(syscall.S_IFREG, f.file).Ino})
		}
	}
	return fs.NewListDirStream(list), 0
}

// A connFile is the node of a file in the directory of a connection.
type connFile interface {
	fs.InodeEmbedder
	is(of connRef, mode uint32)
	attr(a *fuse.Attr, uid uint32)
}

// connFileNode is what these nodes have in common.
type connFileNode struct {
	fs.Inode
	connRef
	mode uint32
}

func (n *connFileNode) is(of connRef, mode uint32) { n.connRef, n.mode = of, mode }

func (n *connFileNode) attr(a *fuse.Attr, uid uint32) {
	a.Mode = syscall.S_IFREG | n.mode
	a.Owner.Uid = uid
	a.Nlink = 1
	t := n.of.stack.Created()
	a.SetTimes(&t, &t, &t)
}

// A connHandle is an open file of a connection. What was read of it stays
// when that ends, and so do its attributes.
type connHandle interface{ owner() uint32 }

// An owned is embedded in each connHandle: the uid of the socket.
type owned uint32

func (o owned) owner() uint32 { return uint32(o) }

func (n *connFileNode) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	var uid uint32
	c, err := n.get(ctx)
	h, open := f.(connHandle)
	switch {
	case err == nil:
		uid = c.UID
	case open && errors.Is(err, stacknode.ErrNoConn):
		uid = h.owner()
	default:
		return n.of.tree.errno("getattr", ended(err))
	}
	n.attr(&out.Attr, uid)
	out.SetTimeout(cacheTime)
	return 0
}

// Setattr refuses everything: who owns the socket owns its files.
func (n *connFileNode) Setattr(context.Context, fs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return syscall.EPERM
}

// connTextNode is a file whose text is made when it is opened.
type connTextNode struct {
	connFileNode
	text func(ctx context.Context, n *connTextNode, c *stacknode.Conn) ([]byte, error)
}

var (
	_ = (fs.NodeGetattrer)((*connTextNode)(nil))
	_ = (fs.NodeSetattrer)((*connTextNode)(nil))
	_ = (fs.NodeOpener)((*connTextNode)(nil))
)

func (n *connTextNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EACCES
	}
	c, err := n.get(ctx)
	var text []byte
	if err == nil {
		text, err = n.text(ctx, n, c)
	}
	if err != nil {
		return nil, 0, n.of.tree.errno("read", ended(err))
	}
	return &connTextHandle{owned(c.UID), text}, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

type connTextHandle struct {
	owned
	textHandle
}

var _ = (fs.FileReader)((*connTextHandle)(nil))
