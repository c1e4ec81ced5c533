package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// Limits of a pause, whose end nobody may be there to ask for.
const (
	defaultPause = 60 * time.Second
	maxPause     = 24 * time.Hour
)

const connVerbs = "pause [SECONDS], hold, resume, abort, release"

// connCtlNode takes commands about a connection, one a line.
type connCtlNode struct{ connFileNode }

var (
	_ = (fs.NodeGetattrer)((*connCtlNode)(nil))
	_ = (fs.NodeSetattrer)((*connCtlNode)(nil))
	_ = (fs.NodeOpener)((*connCtlNode)(nil))
)

func (n *connCtlNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if e := refuseOwner(in); e != 0 {
		return e
	}
	return n.Getattr(ctx, f, out)
}

func (n *connCtlNode) Open(ctx context.Context, _ uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, err := n.open(ctx)
	if err != nil {
		return nil, 0, n.of.tree.errno("ctl", ended(err))
	}
	return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

func (n *connCtlNode) open(ctx context.Context) (*connCtlHandle, error) {
	conn, err := n.get(ctx)
	if err != nil {
		return nil, err
	}
	p, c, err := n.of.caller(ctx)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	d, err := c.Look()
	if err != nil {
		return nil, err
	}
	return &connCtlHandle{owned: owned(conn.UID), node: n, uid: c.UID, userNS: d.UserNS, caps: d.Caps, fresh: true}, nil
}

// A connCtlHandle is an open file ctl of a connection.
type connCtlHandle struct {
	owned
	node   *connCtlNode
	uid    uint32 // who opened it
	userNS stacknode.NSID
	caps   stacknode.CapSet // over userNS

	mu     sync.Mutex // guards the fields below
	answer string
	fresh  bool // nothing was written or read yet
}

var (
	_ = (fs.FileWriter)((*connCtlHandle)(nil))
	_ = (fs.FileReader)((*connCtlHandle)(nil))
	_ = (fs.FileReleaser)((*connCtlHandle)(nil))
)

// Write carries out the lines of one write(2). It stops at the first that
// fails; the error text can be read from the same handle.
func (h *connCtlHandle) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	if len(data) > maxCtlLine {
		return 0, syscall.E2BIG
	}
	answer, err := h.carryOut(ctx, string(data))
	if err != nil {
		answer += errorText(err)
	}
	h.node.judge(ctx, err)
	h.mu.Lock()
	h.answer, h.fresh = answer, false
	h.mu.Unlock()
	if err != nil {
		return 0, h.node.of.tree.errno("ctl", err)
	}
	return uint32(len(data)), 0
}

var errAnotherWriter = fmt.Errorf("this file was opened by somebody with other rights than yours: %w", syscall.EPERM)

func (h *connCtlHandle) carryOut(ctx context.Context, text string) (answer string, err error) {
	backend, ok := h.node.of.stack.Backend().(stacknode.Checkpointer)
	if !ok {
		return "", syscall.EOPNOTSUPP
	}
	_, c, done, err := h.node.of.pend(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	// The rights are those of who writes. So nobody may have a program with
	// more of them write to a file that he opened.
	d, err := c.Look()
	if err != nil {
		return "", err
	}
	if c.UID != h.uid || d.UserNS != h.userNS || d.Caps&^h.caps != 0 {
		return "", errAnotherWriter
	}
	if err := h.node.of.stack.Admit(c); err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := h.order(ctx, backend, c, line); err != nil {
			return answer, ended(err)
		}
		answer += "ok\n"
	}
	return answer, nil
}

// order carries out one command.
func (h *connCtlHandle) order(ctx context.Context, backend stacknode.Checkpointer, c *stacknode.Caller, line string) error {
	n := h.node
	words := strings.Fields(line)
	if words[0] == "pause" && len(words) <= 2 {
		limit, err := pauseLimit(words[1:])
		if err != nil {
			return err
		}
		return backend.Pause(ctx, c, n.cookie, limit)
	}
	if len(words) > 1 {
		return fmt.Errorf("%q has too many words (%s): %w", line, connVerbs, syscall.EINVAL)
	}
	switch words[0] {
	case "hold":
		err := backend.Pause(ctx, c, n.cookie, 0)
		if err == nil {
			n.of.tree.hold(n.key(), h)
		}
		return err
	case "resume":
		return n.end(func() error { return backend.Resume(ctx, c, n.cookie) })
	case "abort":
		return n.end(func() error { return backend.Abort(ctx, c, n.cookie) })
	case "release":
		return n.end(func() error { return backend.Discard(ctx, c, n.cookie) })
	}
	return fmt.Errorf("unknown command %q (%s): %w", words[0], connVerbs, syscall.EINVAL)
}

// end forgets who held the connection, if how succeeds. Who holds it since
// then is another matter.
func (n *connCtlNode) end(how func() error) error {
	before := n.of.tree.holder(n.key())
	err := how()
	if err == nil && before != nil {
		n.of.tree.letGo(n.key(), before)
	}
	return err
}

func pauseLimit(words []string) (time.Duration, error) {
	if len(words) == 0 {
		return defaultPause, nil
	}
	seconds, err := strconv.ParseUint(words[0], 10, 32)
	limit := time.Duration(seconds) * time.Second
	if err != nil || seconds == 0 || limit > maxPause {
		return 0, fmt.Errorf("pause %s: not a number of seconds from 1 to %d: %w", words[0], int(maxPause.Seconds()), syscall.EINVAL)
	}
	return limit, nil
}

// Read gives the answer to the last write, from its start whatever the
// position is: the write moved it. Before any write it gives the last error
// that the reader got for this connection.
func (h *connCtlHandle) Read(ctx context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fresh {
		h.answer = h.node.of.tree.verdicts.get(verdictKey{callerUID(ctx), h.node.key()})
		h.fresh = false
	}
	out := h.answer[:min(len(dest), len(h.answer))]
	h.answer = h.answer[len(out):]
	return fuse.ReadResultData([]byte(out)), 0
}

// hold notes h as what holds a connection. A pause that was ended in another
// way is not the holder's to end.
func (t *tree) hold(k connKey, h *connCtlHandle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.holds[k] = h
}

// holder returns what holds a connection, nil if nothing does.
func (t *tree) holder(k connKey) *connCtlHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holds[k]
}

// letGo tells whether h holds the connection still, and ends that.
func (t *tree) letGo(k connKey, h *connCtlHandle) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holds[k] != h {
		return false
	}
	delete(t.holds, k)
	return true
}

// releaseTime is how long a connection may take to be resumed.
const releaseTime = 10 * time.Second

// Release ends what a "hold" on this open file began. It is called when the
// last descriptor of it is closed, also by the death of its processes, and
// acts with the daemon's own rights: who began it may be gone.
func (h *connCtlHandle) Release(context.Context) syscall.Errno {
	n := h.node
	backend, ok := n.of.stack.Backend().(stacknode.Checkpointer)
	if !ok || !n.of.tree.letGo(n.key(), h) {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	err := resumeAsSelf(ctx, backend, n.cookie)
	switch {
	case err == nil, errors.Is(err, stacknode.ErrNotPaused), errors.Is(err, stacknode.ErrNoConn), errors.Is(err, stacknode.ErrClosed):
	default:
		n.of.tree.log.Error("connection not resumed", "stack", n.of.stack.Name(), "cookie", n.cookie, "err", err)
	}
	return 0
}

// resumeAsSelf resumes a connection with the rights of the daemon.
func resumeAsSelf(ctx context.Context, backend stacknode.Checkpointer, cookie uint64) error {
	p, err := peer.Open(os.Getpid())
	if err != nil {
		return err
	}
	defer p.Close()
	c, err := p.Caller()
	if err != nil {
		return err
	}
	return backend.Resume(ctx, c, cookie)
}
