package fs

import (
	"context"
	"sort"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// textNode is a file whose text is made when it is opened.
type textNode struct {
	fs.Inode
	tree    *tree
	ino     uint64
	created time.Time
	text    func() ([]byte, error)
}

var (
	_ = (fs.NodeGetattrer)((*textNode)(nil))
	_ = (fs.NodeOpener)((*textNode)(nil))
)

func (n *textNode) attr(a *fuse.Attr) {
	a.Ino = n.ino
	a.Mode = syscall.S_IFREG | 0o444
	a.Nlink = 1
	a.SetTimes(&n.created, &n.created, &n.created)
}

func (n *textNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

func (n *textNode) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EACCES
	}
	text, err := n.text()
	if err != nil {
		return nil, 0, n.tree.errno("read", err)
	}
	// The size is not known before: without the page cache read(2) does
	// not look at it.
	return textHandle(text), fuse.FOPEN_DIRECT_IO, 0
}

type textHandle []byte

var _ = (fs.FileReader)(textHandle(nil))

func (h textHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if off >= int64(len(h)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(h[off:min(int64(len(h)), off+int64(len(dest)))]), 0
}

// etcNode holds the files that replace those of /etc for programs on the
// stack.
type etcNode struct {
	fs.Inode
	fixedDir
	tree *tree
	of   *stackNode
}

var (
	_ = (fs.NodeGetattrer)((*etcNode)(nil))
	_ = (fs.NodeLookuper)((*etcNode)(nil))
	_ = (fs.NodeReaddirer)((*etcNode)(nil))
)

func (n *etcNode) attr(a *fuse.Attr) {
	a.Ino = stackIno(n.of.stack, fileEtc)
	a.Mode = syscall.S_IFDIR | 0o555
	a.Nlink = 2
	t := n.of.stack.Created()
	a.SetTimes(&t, &t, &t)
}

func (n *etcNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

func (n *etcNode) names() ([]string, error) {
	files, err := n.of.nameFiles()
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	return names, err
}

func (n *etcNode) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	names, err := n.names()
	if err != nil {
		return nil, n.tree.errno("readdir", err)
	}
	list := make([]fuse.DirEntry, len(names))
	for i, name := range names {
		list[i] = fuse.DirEntry{Name: name, Mode: syscall.S_IFREG}
	}
	return fs.NewListDirStream(list), 0
}

func (n *etcNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	files, err := n.of.nameFiles()
	if err != nil {
		return nil, n.tree.errno("lookup", err)
	}
	if _, ok := files[name]; !ok {
		return nil, syscall.ENOENT
	}
	ino := n.tree.etcIno(n.of.stack, name)
	f := &textNode{tree: n.tree, ino: ino, created: n.of.stack.Created(), text: func() ([]byte, error) {
		files, err := n.of.nameFiles()
		if err == nil && files[name] == nil {
			err = syscall.ENOENT
		}
		return files[name], err
	}}
	f.attr(&out.Attr)
	return n.NewInode(ctx, f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: ino}), 0
}
