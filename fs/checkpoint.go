package fs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
)

// checkpointNode is the image of a connection, made when it is opened.
type checkpointNode struct{ connFileNode }

var (
	_ = (fs.NodeGetattrer)((*checkpointNode)(nil))
	_ = (fs.NodeSetattrer)((*checkpointNode)(nil))
	_ = (fs.NodeOpener)((*checkpointNode)(nil))
)

// Open saves the connection. The image is in memory until the file is
// closed and can be read at any position; why it failed can be read from ctl.
func (n *checkpointNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EACCES
	}
	h, err := n.open(ctx)
	n.judge(ctx, ended(err))
	if err != nil {
		return nil, 0, n.of.tree.errno("checkpoint", ended(err))
	}
	return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

func (n *checkpointNode) open(ctx context.Context) (*imageHandle, error) {
	backend, ok := n.of.stack.Backend().(stacknode.Checkpointer)
	if !ok {
		return nil, syscall.EOPNOTSUPP
	}
	_, c, done, err := n.of.pend(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := n.of.stack.Admit(c); err != nil {
		return nil, err
	}
	conn, err := n.get(ctx)
	if err != nil {
		return nil, err
	}
	uid := callerUID(ctx)
	// Before the image is there it is as large as the queues.
	making, err := n.of.tree.keep(uid, int(min(uint64(conn.RecvQ)+uint64(conn.SendQ), memoryPerUser)))
	if err != nil {
		return nil, err
	}
	defer making()
	image, err := backend.Checkpoint(ctx, c, n.cookie)
	if err != nil {
		return nil, err
	}
	making()
	release, err := n.of.tree.keep(uid, len(image))
	if err != nil {
		return nil, err
	}
	return &imageHandle{owned(conn.UID), keptHandle{textHandle(image), release}}, nil
}

type imageHandle struct {
	owned
	keptHandle
}

var (
	_ = (fs.FileReader)((*imageHandle)(nil))
	_ = (fs.FileReleaser)((*imageHandle)(nil))
)
