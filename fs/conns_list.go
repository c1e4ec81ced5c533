package fs

import (
	"context"
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

// OpendirHandle opens a list of the sockets that the caller sees.
func (n *connsNode) OpendirHandle(ctx context.Context, _ uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if err := n.of.admit(ctx); err != nil {
		return nil, 0, n.of.tree.errno("opendir", err)
	}
	return &connsHandle{of: n, uid: callerUID(ctx)}, 0, 0
}

// A connsHandle is an open list. It is made in one dump, when it is read
// first and when it is rewound. go-fuse calls its methods one at a time.
type connsHandle struct {
	of  *connsNode
	uid uint32

	cookies []uint64
	release func() // of the memory of cookies; nil: there is no list yet
	next    int
	entry   fuse.DirEntry
}

var (
	_ = (fs.FileReaddirenter)((*connsHandle)(nil))
	_ = (fs.FileSeekdirer)((*connsHandle)(nil))
	_ = (fs.FileReleasedirer)((*connsHandle)(nil))
)

func (h *connsHandle) fill(ctx context.Context) error {
	list, err := h.of.of.dump(ctx, h.uid)
	if err != nil {
		return err
	}
	count := 0
	for i := range list {
		if h.lists(&list[i]) {
			count++
		}
	}
	release, err := h.of.of.tree.keep(h.uid, 8*count)
	if err != nil {
		return err
	}
	cookies := make([]uint64, 0, count)
	for i := range list {
		if h.lists(&list[i]) {
			cookies = append(cookies, list[i].Cookie)
		}
	}
	h.cookies, h.release = cookies, release
	return nil
}

func (h *connsHandle) lists(c *stacknode.Conn) bool {
	return c.Cookie != 0 && (c.State == stacknode.StateListen) == h.of.listeners
}

// Readdirent returns the next entry. Its memory is that of the one before.
func (h *connsHandle) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	if h.release == nil {
		if err := h.fill(ctx); err != nil {
			return nil, h.of.of.tree.errno("readdir", err)
		}
	}
	if h.next >= len(h.cookies) {
		return nil, 0
	}
	ref := connRef{h.of.of, h.cookies[h.next], h.of.listeners}
	h.next++
	h.entry = fuse.DirEntry{
		Name: strconv.FormatUint(ref.cookie, 10),
		Mode: syscall.S_IFDIR,
		Ino:  ref.id(syscall.S_IFDIR, connDir).Ino,
		Off:  uint64(h.next),
	}
	return &h.entry, 0
}

// Seekdir goes to a position that Readdirent gave. At the start the list is
// made anew.
func (h *connsHandle) Seekdir(_ context.Context, off uint64) syscall.Errno {
	if off == 0 {
		h.drop()
	}
	if off > uint64(len(h.cookies)) {
		return syscall.EINVAL
	}
	h.next = int(off)
	return 0
}

func (h *connsHandle) Releasedir(context.Context, uint32) { h.drop() }

func (h *connsHandle) drop() {
	if h.release != nil {
		h.release()
	}
	h.cookies, h.release = nil, nil
}

// sweepFrom is how many names of connections the kernel may know before it is
// told which have ended.
const sweepFrom = 256

// known returns the names in conns and listeners that the kernel knows, nil
// where they are few.
func (n *stackNode) known() (names [2]map[string]*fs.Inode) {
	for i, dir := range [...]string{"conns", "listeners"} {
		ch := n.GetChild(dir)
		if ch == nil {
			continue
		}
		if list := ch.Children(); len(list) >= sweepFrom {
			names[i] = list
		}
	}
	return names
}

// sweep makes the kernel forget the sockets that have ended: of those which
// it was known to know before list was made, what is not there. By itself it
// keeps them, and so do we, until it runs short of memory.
func (n *stackNode) sweep(known [2]map[string]*fs.Inode, list []stacknode.Conn) {
	if known[0] == nil && known[1] == nil {
		return
	}
	for i := range list {
		at := 0
		if list[i].State == stacknode.StateListen {
			at = 1
		}
		delete(known[at], strconv.FormatUint(list[i].Cookie, 10))
	}
	for i, dir := range [...]string{"conns", "listeners"} {
		ch := n.GetChild(dir)
		if ch == nil || len(known[i]) == 0 {
			continue
		}
		node, ok := ch.Operations().(*connsNode)
		if !ok || !node.sweeping.CompareAndSwap(false, true) {
			continue
		}
		// In a goroutine of its own: see tell. It waits for nothing that
		// tell promises to be told in order.
		go func() {
			defer node.sweeping.Store(false)
			for name := range known[i] {
				_ = node.NotifyEntry(name) // ENOENT: forgotten meanwhile
			}
		}()
	}
}
