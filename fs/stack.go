package fs

import (
	"context"
	"fmt"
	iofs "io/fs"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

// xattrType names the attribute by which programs tell a stack from any
// other directory; its value is the kind.
const xattrType = "user.stackfs.type"

// stackNode is the directory of a stack.
type stackNode struct {
	fs.Inode
	fixedDir
	tree  *tree
	stack *stacknode.Stack
}

var (
	_ = (fs.NodeGetattrer)((*stackNode)(nil))
	_ = (fs.NodeSetattrer)((*stackNode)(nil))
	_ = (fs.NodeLookuper)((*stackNode)(nil))
	_ = (fs.NodeReaddirer)((*stackNode)(nil))
	_ = (fs.NodeGetxattrer)((*stackNode)(nil))
	_ = (fs.NodeListxattrer)((*stackNode)(nil))
	_ = (fs.NodeIoctler)((*stackNode)(nil))
)

func (n *stackNode) attr(a *fuse.Attr) {
	mode, uid, gid := n.stack.Access()
	a.Ino = stackIno(n.stack, 0)
	a.Mode = syscall.S_IFDIR | uint32(mode)
	a.Owner = fuse.Owner{Uid: uid, Gid: gid}
	a.Nlink = 2
	t := n.stack.Created()
	a.SetTimes(&t, &t, &t)
}

func (n *stackNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

// Setattr changes mode and owner. The kernel has checked that the caller
// may.
func (n *stackNode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var mode *iofs.FileMode
	var uid, gid *uint32
	if m, ok := in.GetMode(); ok {
		perm := iofs.FileMode(m & 0o777)
		mode = &perm
	}
	if u, ok := in.GetUID(); ok {
		uid = &u
	}
	if g, ok := in.GetGID(); ok {
		gid = &g
	}
	if mode != nil || uid != nil || gid != nil {
		n.stack.SetAccess(mode, uid, gid)
		n.tree.host.AccessChanged(n.stack)
	}
	n.attr(&out.Attr)
	return 0
}

func (n *stackNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	var f *textNode
	switch name {
	case "type":
		f = &textNode{tree: n.tree, ino: stackIno(n.stack, fileType), text: n.typeText}
	case "status":
		f = &textNode{tree: n.tree, ino: stackIno(n.stack, fileStatus), text: n.statusText}
	case "etc":
		if files, err := n.nameFiles(); err != nil || len(files) == 0 {
			return nil, syscall.ENOENT
		}
		etc := &etcNode{tree: n.tree, of: n}
		etc.attr(&out.Attr)
		return n.NewInode(ctx, etc, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: stackIno(n.stack, fileEtc)}), 0
	default:
		return n.lookupConns(ctx, name, out)
	}
	f.created = n.stack.Created()
	f.attr(&out.Attr)
	return n.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: f.ino}), 0
}

func (n *stackNode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	list := []fuse.DirEntry{
		{Name: "type", Mode: syscall.S_IFREG, Ino: stackIno(n.stack, fileType)},
		{Name: "status", Mode: syscall.S_IFREG, Ino: stackIno(n.stack, fileStatus)},
	}
	if files, err := n.nameFiles(); err == nil && len(files) > 0 {
		list = append(list, fuse.DirEntry{Name: "etc", Mode: syscall.S_IFDIR, Ino: stackIno(n.stack, fileEtc)})
	}
	if _, ok := n.table(); ok {
		list = append(list,
			fuse.DirEntry{Name: "connections", Mode: syscall.S_IFREG, Ino: stackIno(n.stack, fileConnections)},
			fuse.DirEntry{Name: "conns", Mode: syscall.S_IFDIR, Ino: stackIno(n.stack, fileConns)},
			fuse.DirEntry{Name: "listeners", Mode: syscall.S_IFDIR, Ino: stackIno(n.stack, fileListeners)})
	}
	if _, ok := n.stack.Backend().(stacknode.Checkpointer); ok {
		list = append(list, fuse.DirEntry{Name: "restore", Mode: syscall.S_IFREG, Ino: stackIno(n.stack, fileRestore)})
	}
	return fs.NewListDirStream(list), 0
}

func (n *stackNode) nameFiles() (map[string][]byte, error) {
	ns, ok := n.stack.Backend().(stacknode.NameService)
	if !ok {
		return nil, nil
	}
	return ns.NameFiles()
}

func (n *stackNode) typeText() ([]byte, error) {
	return []byte(string(n.stack.Kind()) + "\n"), nil
}

func (n *stackNode) statusText() ([]byte, error) {
	s := n.stack
	mode, uid, gid := s.Access()
	lines := []stacknode.Line{
		{Key: "name", Value: s.Name()},
		{Key: "kind", Value: string(s.Kind())},
		{Key: "state", Value: s.State().String()},
		{Key: "origin", Value: string(s.Origin())},
		{Key: "families", Value: s.Families().String()},
		{Key: "mode", Value: fmt.Sprintf("%04o", mode)},
		{Key: "owner", Value: fmt.Sprint(uid)},
		{Key: "group", Value: fmt.Sprint(gid)},
		{Key: "created", Value: s.Created().Format(time.RFC3339)},
	}
	if id, cookie, ok := s.NetNS(); ok {
		lines = append(lines,
			stacknode.Line{Key: "netns", Value: fmt.Sprint(id.Ino)},
			stacknode.Line{Key: "netns_cookie", Value: fmt.Sprint(cookie)})
	}
	if own, ok := s.Backend().(stacknode.OwnNamespace); ok {
		lines = append(lines, stacknode.Line{Key: "foreign", Value: fmt.Sprint(own.Foreign())})
	}
	if c, ok := s.Backend().(stacknode.Counter); ok {
		channels, runs := c.Counts()
		lines = append(lines,
			stacknode.Line{Key: "channels", Value: fmt.Sprint(channels)},
			stacknode.Line{Key: "runs", Value: fmt.Sprint(runs)})
	}
	if d, ok := s.Backend().(stacknode.Describer); ok {
		lines = append(lines, d.Describe()...)
	}
	return appendLines(nil, lines), nil
}

func (n *stackNode) Getxattr(_ context.Context, attr string, dest []byte) (uint32, syscall.Errno) {
	if attr != xattrType {
		return 0, syscall.ENODATA
	}
	return copyXattr(dest, string(n.stack.Kind()))
}

func (n *stackNode) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	return copyXattr(dest, xattrType+"\x00")
}

func copyXattr(dest []byte, value string) (uint32, syscall.Errno) {
	if len(dest) < len(value) && len(dest) > 0 {
		return uint32(len(value)), syscall.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), 0
}
