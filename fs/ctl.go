package fs

import (
	"context"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const maxCtlLine = 64 << 10

// ctlNode takes commands. What is read from the same open file after a
// write is the answer to it.
type ctlNode struct {
	fs.Inode
	tree *tree
}

var (
	_ = (fs.NodeGetattrer)((*ctlNode)(nil))
	_ = (fs.NodeSetattrer)((*ctlNode)(nil))
	_ = (fs.NodeOpener)((*ctlNode)(nil))
)

func (n *ctlNode) attr(a *fuse.Attr) {
	a.Ino = inoCtl
	a.Mode = syscall.S_IFREG | 0o600
	a.Nlink = 1
	a.SetTimes(&n.tree.created, &n.tree.created, &n.tree.created)
}

func (n *ctlNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

// Setattr lets O_TRUNC pass (shells open with it) and nothing else.
func (n *ctlNode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return refuseOwner(in)
}

func (n *ctlNode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return &ctlHandle{tree: n.tree}, fuse.FOPEN_DIRECT_IO, 0
}

type ctlHandle struct {
	tree *tree

	mu     sync.Mutex // guards answer
	answer []byte
}

var (
	_ = (fs.FileWriter)((*ctlHandle)(nil))
	_ = (fs.FileReader)((*ctlHandle)(nil))
)

// Write carries out the lines of one write(2). It stops at the first that
// fails; the error text can be read from the same handle.
func (h *ctlHandle) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	if len(data) > maxCtlLine {
		return 0, syscall.E2BIG
	}
	var answer strings.Builder
	var failed syscall.Errno
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		text, err := h.tree.host.Control(ctx, line)
		if err != nil {
			answer.WriteString("error: " + strings.ReplaceAll(err.Error(), "\n", "; ") + "\n")
			failed = h.tree.errno("ctl", err)
			break
		}
		answer.WriteString(text)
	}
	h.tree.waitTold(ctx)
	h.mu.Lock()
	h.answer = []byte(answer.String())
	h.mu.Unlock()
	if failed != 0 {
		return 0, failed
	}
	return uint32(len(data)), 0
}

// Read gives the answer to the last write, from its start whatever the
// position is: the write moved it.
func (h *ctlHandle) Read(_ context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(len(dest), len(h.answer))
	out := h.answer[:n]
	h.answer = h.answer[n:]
	return fuse.ReadResultData(out), 0
}
