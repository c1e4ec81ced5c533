package fs

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// maxImage is how large an image may be in bytes. Two queues of the size that
// the kernel allows at most are smaller.
const maxImage = 128 << 20

// restoreNode makes sockets from images. Each open file has an image of its
// own.
type restoreNode struct {
	fs.Inode
	of *stackNode
}

var (
	_ = (fs.NodeGetattrer)((*restoreNode)(nil))
	_ = (fs.NodeSetattrer)((*restoreNode)(nil))
	_ = (fs.NodeOpener)((*restoreNode)(nil))
	_ = (fs.NodeIoctler)((*restoreNode)(nil))
)

// attr gives the file the owner of the stack, and to each of owner, group
// and others the right to write where they have that to read the directory:
// which is the right to make sockets.
func (n *restoreNode) attr(a *fuse.Attr) {
	mode, uid, gid := n.of.stack.Access()
	read := uint32(mode) & 0o444
	a.Mode = syscall.S_IFREG | read | read>>1
	a.Owner = fuse.Owner{Uid: uid, Gid: gid}
	a.Nlink = 1
	t := n.of.stack.Created()
	a.SetTimes(&t, &t, &t)
}

func (n *restoreNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	out.SetTimeout(1)
	return 0
}

// Setattr lets the image of an open file be truncated to nothing.
func (n *restoreNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if e := refuseOwner(in); e != 0 {
		return e
	}
	if size, ok := in.GetSize(); ok {
		if size != 0 {
			return syscall.EINVAL
		}
		if h, ok := f.(*restoreHandle); ok {
			if e := h.clear(); e != 0 {
				return e
			}
		}
	}
	return n.Getattr(ctx, f, out)
}

func (n *restoreNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if err := n.of.admit(ctx); err != nil {
		return nil, 0, n.of.tree.errno("restore", err)
	}
	h := &restoreHandle{of: n.of, uid: callerUID(ctx), append: flags&syscall.O_APPEND != 0}
	return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

// A restoreHandle is an open file restore.
type restoreHandle struct {
	of     *stackNode
	uid    uint32 // whose memory the image is
	append bool

	mu      sync.Mutex // guards the fields below
	image   []byte
	release func() // of the memory of image
	busy    bool   // image is being restored
	answer  string
}

var (
	_ = (fs.FileWriter)((*restoreHandle)(nil))
	_ = (fs.FileReader)((*restoreHandle)(nil))
	_ = (fs.FileReleaser)((*restoreHandle)(nil))
)

// Write writes a part of the image.
func (h *restoreHandle) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy {
		return 0, syscall.EBUSY
	}
	if h.append {
		off = int64(len(h.image))
	}
	if off < 0 || off > maxImage || int64(len(data)) > maxImage-off {
		return 0, syscall.EFBIG
	}
	end := int(off) + len(data)
	if err := h.grow(end); err != nil {
		return 0, h.of.tree.errno("restore", err)
	}
	if old := len(h.image); end > old {
		h.image = h.image[:end]
		clear(h.image[old:])
	}
	copy(h.image[off:], data)
	return uint32(len(data)), 0
}

// grow makes room for n bytes. While they are copied both the old and the
// new memory count.
func (h *restoreHandle) grow(n int) error {
	if n <= cap(h.image) {
		return nil
	}
	size := min(max(n, 2*cap(h.image), 64<<10), maxImage)
	release, err := h.of.tree.keep(h.uid, size)
	if err != nil {
		return err
	}
	image := make([]byte, len(h.image), size)
	copy(image, h.image)
	h.drop()
	h.image, h.release = image, release
	return nil
}

func (h *restoreHandle) drop() {
	if h.release != nil {
		h.release()
	}
	h.image, h.release = nil, nil
}

func (h *restoreHandle) clear() syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy {
		return syscall.EBUSY
	}
	h.drop()
	return 0
}

// Read gives the reason why the last ioctl failed, whatever the position is.
func (h *restoreHandle) Read(_ context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.answer[:min(len(dest), len(h.answer))]
	h.answer = h.answer[len(out):]
	return fuse.ReadResultData([]byte(out)), 0
}

func (h *restoreHandle) Release(context.Context) syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop()
	return 0
}

// Ioctl serves the commands of an open file restore.
func (n *restoreNode) Ioctl(ctx context.Context, f fs.FileHandle, cmd uint32, _ uint64, in, out []byte) (int32, syscall.Errno) {
	h, ok := f.(*restoreHandle)
	if !ok {
		return 0, syscall.EBADF
	}
	var reply []byte
	var err error
	switch cmd {
	case uapi.IocVersion:
		reply, err = ioctlVersion(in)
	case uapi.IocRestore:
		reply, err = h.ioctlRestore(ctx, in)
	default:
		return 0, syscall.ENOTTY
	}
	if err != nil {
		n.of.tree.log.Debug("ioctl", "stack", n.of.stack.Name(), "cmd", fmt.Sprintf("%#x", cmd), "err", err)
		return 0, n.of.tree.errno("ioctl", err)
	}
	if len(reply) != len(out) {
		return 0, syscall.EINVAL
	}
	copy(out, reply)
	return 0, 0
}

func (h *restoreHandle) ioctlRestore(ctx context.Context, in []byte) ([]byte, error) {
	image, err := h.begin()
	if err != nil {
		return nil, err
	}
	reply, err := h.restore(ctx, in, image)
	h.end(err)
	return reply, err
}

var errRestoring = fmt.Errorf("the image of this open file is being restored: %w", syscall.EBUSY)

// begin returns the image, which nobody changes until end.
func (h *restoreHandle) begin() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy {
		return nil, errRestoring
	}
	h.busy = true
	return h.image, nil
}

func (h *restoreHandle) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy = false
	h.answer = ""
	if err != nil {
		h.answer = errorText(err)
	}
}

// restore makes the socket and sends it over the caller's socketpair, which
// is checked before: a connection that was restored can be lost.
func (h *restoreHandle) restore(ctx context.Context, in, image []byte) ([]byte, error) {
	var r uapi.Restore
	if err := r.UnmarshalBinary(in); err != nil {
		return nil, err
	}
	backend, ok := h.of.stack.Backend().(stacknode.Checkpointer)
	if !ok {
		return nil, syscall.EOPNOTSUPP
	}
	p, c, done, err := h.of.pend(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := h.of.stack.Admit(c); err != nil {
		return nil, err
	}
	conn, err := p.FetchFD(c.PID, int(r.ReplyFD), peer.IsSocket, syscall.ENOTSOCK)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := peer.CheckReply(conn, r.ReplyCookie); err != nil {
		return nil, err
	}
	sock, err := backend.Restore(ctx, c, image)
	if err != nil {
		return nil, err
	}
	if err := sendRestored(conn, sock); err != nil {
		closeSilently(sock)
		return nil, err
	}
	sock.Close()
	return r.MarshalBinary()
}

func sendRestored(conn, sock *os.File) error {
	msg, err := (&uapi.ChanRep{Flags: uapi.ChanClosed}).MarshalBinary()
	if err != nil {
		return err
	}
	return peer.SendReply(conn, msg, sock)
}
