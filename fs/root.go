package fs

import (
	"context"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

// rootNode is the directory of the mount: the stacks, ctl, and what the
// directory mounted over holds.
type rootNode struct {
	fs.Inode
	fixedDir // but for Rmdir
	tree     *tree
	under    *os.File // the directory mounted over; may be nil
}

var (
	_ = (fs.NodeLookuper)((*rootNode)(nil))
	_ = (fs.NodeReaddirer)((*rootNode)(nil))
	_ = (fs.NodeGetattrer)((*rootNode)(nil))
	_ = (fs.NodeMkdirer)((*rootNode)(nil))
	_ = (fs.NodeRmdirer)((*rootNode)(nil))
	_ = (fs.NodeStatfser)((*rootNode)(nil))
)

func (r *rootNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = syscall.S_IFDIR | 0o755
	out.Nlink = 2
	t := r.tree.created
	out.SetTimes(&t, &t, &t)
	return 0
}

func (r *rootNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if name == stacknode.NameCtl {
		ctl := &ctlNode{tree: r.tree}
		ctl.attr(&out.Attr)
		return r.NewInode(ctx, ctl, fs.StableAttr{Mode: syscall.S_IFREG, Ino: inoCtl}), 0
	}
	if s, err := r.tree.reg.Get(name); err == nil {
		n := &stackNode{tree: r.tree, stack: s}
		n.attr(&out.Attr)
		return r.NewInode(ctx, n, fs.StableAttr{Mode: syscall.S_IFDIR, Ino: stackIno(s, 0)}), 0
	}
	return r.lookupBelow(ctx, name, out)
}

// lookupBelow finds name in the directory mounted over.
func (r *rootNode) lookupBelow(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if r.under == nil {
		return nil, syscall.ENOENT
	}
	st, err := fstatat(r.under, name)
	if err != nil {
		return nil, r.tree.errno("lookup", err)
	}
	out.Attr.FromStat(st)
	n := &belowNode{root: r, name: name}
	return r.NewInode(ctx, n, fs.StableAttr{Mode: st.Mode & syscall.S_IFMT, Ino: belowIno(st)}), 0
}

// belowIno gives a file below a number that no stack has.
func belowIno(st *syscall.Stat_t) uint64 { return st.Ino % inoBase }

func (r *rootNode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	seen := map[string]bool{stacknode.NameCtl: true}
	list := []fuse.DirEntry{{Name: stacknode.NameCtl, Mode: syscall.S_IFREG, Ino: inoCtl}}
	for _, s := range r.tree.reg.List() {
		seen[s.Name()] = true
		list = append(list, fuse.DirEntry{Name: s.Name(), Mode: syscall.S_IFDIR, Ino: stackIno(s, 0)})
	}
	if r.under != nil {
		below, err := readdir(r.under)
		if err != nil {
			return nil, r.tree.errno("readdir", err)
		}
		for _, e := range below {
			if !seen[e.Name] {
				list = append(list, e)
			}
		}
	}
	return fs.NewListDirStream(list), 0
}

// Mkdir makes a stack with a namespace of its own. Its mode is that of
// every new stack, not the caller's umask: whom it is opened to is to be
// said by chmod.
func (r *rootNode) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if r.under != nil {
		if _, err := fstatat(r.under, name); err == nil {
			return nil, syscall.EEXIST
		}
	}
	if err := r.tree.host.MakeStack(name); err != nil {
		r.tree.log.Warn("mkdir", "stack", name, "err", err)
		return nil, r.tree.errno("mkdir", err)
	}
	return r.Lookup(ctx, name, out)
}

// Rmdir removes a stack. Its directory is never empty; the kernel leaves
// that to us.
func (r *rootNode) Rmdir(_ context.Context, name string) syscall.Errno {
	if _, err := r.tree.reg.Get(name); err != nil {
		return syscall.EPERM // of the directory mounted over
	}
	if err := r.tree.host.RemoveStack(name); err != nil {
		r.tree.log.Info("rmdir", "stack", name, "err", err)
		return r.tree.errno("rmdir", err)
	}
	return 0
}

func (r *rootNode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.NameLen = 63
	out.Bsize = 4096
	return 0
}
