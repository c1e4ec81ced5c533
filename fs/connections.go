package fs

import (
	"context"
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

const tableHead = "# cookie state family recv-q send-q local remote uid inode\n"

// rowSize is about as much as a row has, in bytes.
const rowSize = 96

// appendRow adds the line of a socket to the table.
func appendRow(b []byte, c *stacknode.Conn) []byte {
	family := " inet "
	if c.Family == stacknode.AFInet6 {
		family = " inet6 "
	}
	b = strconv.AppendUint(b, c.Cookie, 10)
	b = append(b, ' ')
	b = append(b, c.State...)
	b = append(b, family...)
	b = strconv.AppendUint(b, uint64(c.RecvQ), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(c.SendQ), 10)
	b = append(b, ' ')
	b = appendAddr(b, c.Local)
	b = append(b, ' ')
	b = appendAddr(b, c.Remote)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(c.UID), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, c.Inode, 10)
	return append(b, '\n')
}

// connectionsNode is the table of all TCP sockets of a stack, made when it is
// opened.
type connectionsNode struct {
	fs.Inode
	of *stackNode
}

var (
	_ = (fs.NodeGetattrer)((*connectionsNode)(nil))
	_ = (fs.NodeOpener)((*connectionsNode)(nil))
)

func (n *connectionsNode) attr(a *fuse.Attr) {
	a.Mode = syscall.S_IFREG | 0o444
	a.Nlink = 1
	t := n.of.stack.Created()
	a.SetTimes(&t, &t, &t)
}

func (n *connectionsNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

func (n *connectionsNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EACCES
	}
	h, err := n.open(ctx)
	if err != nil {
		return nil, 0, n.of.tree.errno("connections", err)
	}
	return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

func (n *connectionsNode) open(ctx context.Context) (*keptHandle, error) {
	if err := n.of.admit(ctx); err != nil {
		return nil, err
	}
	uid := callerUID(ctx)
	list, err := n.of.dump(ctx, uid)
	if err != nil {
		return nil, err
	}
	text := make([]byte, 0, len(tableHead)+rowSize*len(list))
	text = append(text, tableHead...)
	for i := range list {
		text = appendRow(text, &list[i])
	}
	release, err := n.of.tree.keep(uid, cap(text))
	if err != nil {
		return nil, err
	}
	return &keptHandle{textHandle(text), release}, nil
}

// A keptHandle is a text large enough to be counted as its reader's.
type keptHandle struct {
	textHandle
	release func()
}

var (
	_ = (fs.FileReader)((*keptHandle)(nil))
	_ = (fs.FileReleaser)((*keptHandle)(nil))
)

func (h *keptHandle) Release(context.Context) syscall.Errno {
	h.textHandle = nil
	h.release()
	return 0
}
