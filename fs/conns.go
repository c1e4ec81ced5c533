package fs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

// table returns the connections of the stack, if it shows any.
func (n *stackNode) table() (stacknode.ConnTable, bool) {
	t, ok := n.stack.Backend().(stacknode.ConnTable)
	return t, ok && n.stack.Spec().Conns.Visible != stacknode.VisibleOff
}

// sees tells whether uid sees the sockets of owner.
func (n *stackNode) sees(uid, owner uint32) bool {
	return n.stack.Spec().Conns.Visible != stacknode.VisibleOwn || uid == 0 || uid == owner
}

// admit checks that the stack serves the caller. It looks at the caller only
// if that matters.
func (n *stackNode) admit(ctx context.Context) error {
	if own, ok := n.stack.Backend().(stacknode.OwnNamespace); ok && !own.Foreign() {
		p, c, err := n.caller(ctx)
		if err != nil {
			return err
		}
		defer p.Close()
		return n.stack.Admit(c)
	}
	return n.stack.Admit(nil)
}

// dump lists the sockets that uid sees.
func (n *stackNode) dump(ctx context.Context, uid uint32) ([]stacknode.Conn, error) {
	table, ok := n.table()
	if !ok {
		return nil, stacknode.ErrNoConn
	}
	done, err := n.tree.begin(uid)
	if err != nil {
		return nil, err
	}
	defer done()
	known := n.known()
	all, err := table.Conns(ctx)
	if err != nil {
		return nil, err
	}
	n.sweep(known, all)
	if n.stack.Spec().Conns.Visible != stacknode.VisibleOwn || uid == 0 {
		return all, nil
	}
	seen := all[:0]
	for _, c := range all {
		if n.sees(uid, c.UID) {
			seen = append(seen, c)
		}
	}
	return seen, nil
}

// A connRef names a connection of a stack. What is behind it is looked up
// each time: another socket never has that cookie.
type connRef struct {
	of       *stackNode
	cookie   uint64
	listener bool
}

// get returns the connection as it is now. Returns ErrNoConn if it has ended
// or the caller does not see it.
func (r connRef) get(ctx context.Context) (*stacknode.Conn, error) {
	table, ok := r.of.table()
	if !ok {
		return nil, stacknode.ErrNoConn
	}
	if err := r.of.admit(ctx); err != nil {
		return nil, err
	}
	c, err := table.Conn(ctx, r.cookie)
	if err != nil {
		return nil, err
	}
	if c.Cookie != r.cookie || (c.State == stacknode.StateListen) != r.listener || !r.of.sees(callerUID(ctx), c.UID) {
		return nil, stacknode.ErrNoConn
	}
	return c, nil
}

var errEnded = fmt.Errorf("the connection has ended: %w", syscall.ESTALE)

// ended turns ErrNoConn about a file that was found before into ESTALE, at
// which the kernel looks up its path again.
func ended(err error) error {
	if errors.Is(err, stacknode.ErrNoConn) {
		return errEnded
	}
	return err
}

// Files of a connection, by the number that their inode number ends in.
const (
	connDir = iota
	connLocal
	connRemote
	connStatus
	connInfo
	connCheckpoint
	connCtl
	filesPerConn = 8
)

// connSlots is how many connections have inode numbers of their own, and
// connSpread keeps those of two stacks in one namespace apart.
const (
	connSlots  = 1 << 29 / filesPerConn
	connSpread = 0x9e3779b1
)

// id returns the identity of a file of the connection. The number alone
// comes again after 67 million sockets, together with the generation, by which
// go-fuse tells nodes apart, never.
func (r connRef) id(mode uint32, file uint64) fs.StableAttr {
	slot := r.cookie + r.of.stack.ID()*connSpread
	if r.listener {
		slot += connSlots / 2
	}
	return fs.StableAttr{Mode: mode, Ino: inoConns + slot%connSlots*filesPerConn + file, Gen: r.cookie}
}

// brief makes the kernel look up a name each time. A time of 0 would be
// replaced by the default; this is the shortest one, at most a tick. The
// attributes of what it finds last: those of a connection do not change.
func brief(out *fuse.EntryOut) {
	out.SetEntryTimeout(1)
	out.SetAttrTimeout(cacheTime)
}

// lookupConns finds the files of a stack that are about its connections.
// They are there if the backend knows these.
func (n *stackNode) lookupConns(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	_, shows := n.table()
	_, powers := n.stack.Backend().(stacknode.Checkpointer)
	switch {
	case name == "connections" && shows:
		f := &connectionsNode{of: n}
		f.attr(&out.Attr)
		return n.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: stackIno(n.stack, fileConnections)}), 0
	case name == "conns" && shows:
		d := &connsNode{of: n}
		d.attr(&out.Attr)
		return n.NewInode(ctx, d, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: stackIno(n.stack, fileConns)}), 0
	case name == "listeners" && shows:
		d := &connsNode{of: n, listeners: true}
		d.attr(&out.Attr)
		return n.NewInode(ctx, d, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: stackIno(n.stack, fileListeners)}), 0
	case name == "restore" && powers:
		f := &restoreNode{of: n}
		f.attr(&out.Attr)
		brief(out)
		out.SetAttrTimeout(1) // the mode follows that of the stack
		return n.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: stackIno(n.stack, fileRestore)}), 0
	}
	return nil, syscall.ENOENT
}

// connsNode is the directory conns or listeners of a stack.
type connsNode struct {
	fs.Inode
	fixedDir
	of        *stackNode
	listeners bool
	sweeping  atomic.Bool
}

var (
	_ = (fs.NodeGetattrer)((*connsNode)(nil))
	_ = (fs.NodeLookuper)((*connsNode)(nil))
	_ = (fs.NodeOpendirHandler)((*connsNode)(nil))
)

func (n *connsNode) attr(a *fuse.Attr) {
	a.Mode = syscall.S_IFDIR | 0o555
	a.Nlink = 2
	t := n.of.stack.Created()
	a.SetTimes(&t, &t, &t)
}

func (n *connsNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

func (n *connsNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	cookie, ok := parseCookie(name)
	if !ok {
		return nil, syscall.ENOENT
	}
	d := &connNode{connRef: connRef{n.of, cookie, n.listeners}}
	c, err := d.get(ctx)
	if err != nil {
		return nil, n.of.tree.errno("lookup", err)
	}
	d.attr(&out.Attr, c.UID)
	brief(out)
	return n.NewInode(ctx, d, d.id(syscall.S_IFDIR, connDir)), 0
}

// parseCookie is the inverse of strconv.FormatUint, so that a connection has
// one name only.
func parseCookie(name string) (uint64, bool) {
	cookie, err := strconv.ParseUint(name, 10, 64)
	return cookie, err == nil && name[0] != '0'
}

func callerUID(ctx context.Context) uint32 {
	if c, ok := fuse.FromContext(ctx); ok {
		return c.Uid
	}
	return ^uint32(0) // nobody's
}
