package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/freeze"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// A capture is a connection that stands still.
type capture struct {
	sock   *os.File // a duplicate of the owner's
	fd     int      // of sock, which stays open as long as this is used
	prior  soccr.Prior
	begun  bool // prior is to be put back
	socket *soccr.Socket
	frozen map[int]*freeze.Frozen // by process

	since time.Time     // the first of frozen
	stood time.Duration // from then to the end of release
}

// A block keeps packets away from a socket: soccr.Block or BlockNoWait.
type block func(fd int) (*soccr.Blocked, error)

// capture takes hold of a connection. The caller releases it.
func (g *guard) capture(ctx context.Context, t *task, block block) (*capture, error) {
	c := &capture{frozen: map[int]*freeze.Frozen{}}
	if err := c.take(ctx, g, t, block); err != nil {
		return nil, errors.Join(err, c.release())
	}
	return c, nil
}

func (c *capture) take(ctx context.Context, g *guard, t *task, block block) error {
	holders, err := g.holders(t.Request, nil)
	if err != nil {
		return err
	}
	if c.sock, err = fetch(holders, t.Request.Cookie); err != nil {
		return err
	}
	if err := control(c.sock, func(fd int) error { c.fd = fd; return saveable(fd) }); err != nil {
		return err
	}
	if c.prior, err = soccr.ReadPrior(c.fd); err != nil {
		return err
	}
	box, err := newBox(c.sock, c.prior)
	if err != nil {
		return err
	}
	g.tell(message{Op: opBox, ID: t.ID}, box)
	box.Close()
	buffer, err := c.room()
	if err != nil {
		return err
	}

	if err := c.freeze(ctx, g, t.Request, holders); err != nil {
		return err
	}
	// They could change it until now.
	if now, err := soccr.ReadPrior(c.fd); err != nil {
		return err
	} else if !now.Equal(c.prior) {
		return errMoved
	}
	c.begun = true
	if _, err := block(c.fd); err != nil {
		return err
	}
	if c.socket, err = soccr.Pause(c.fd); err != nil {
		return err
	}
	c.socket.UseBuffer(buffer)
	return nil
}

// saveable asks what can be asked before anybody is held up. What needs
// rights that the guardian has not, over other network namespaces, is found
// out by others.
func saveable(fd int) error {
	err := soccr.Saveable(fd)
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

// spare is how much longer than now the queues may be when they are saved.
const spare = 64 << 10

// room returns memory for the queues, which is there already: to get it page
// by page would take most of the time that the owner stands still.
func (c *capture) room() ([]byte, error) {
	size := spare
	for _, request := range []uint{unix.SIOCINQ, unix.SIOCOUTQ} {
		n, err := unix.IoctlGetInt(c.fd, request)
		if err != nil {
			return nil, os.NewSyscallError("ioctl", err)
		}
		size += n
	}
	b := make([]byte, size)
	for i := 0; i < size; i += os.Getpagesize() {
		b[i] = 1
	}
	return b, nil
}

// freeze freezes all holders. A new one can come only by a holder that was
// not frozen yet; so when a look at all processes that began after the last
// freeze finds no new one, there is none, unless the socket is in a message
// between processes.
func (c *capture) freeze(ctx context.Context, g *guard, r *Request, holders []peer.Holder) error {
	c.since = time.Now()
	for {
		fresh := false
		for _, h := range holders {
			if c.frozen[h.PID] != nil {
				continue
			}
			z, err := g.freezer.Freeze(ctx, h.PID)
			if errors.Is(err, freeze.ErrGone) {
				continue
			}
			if err != nil {
				return err
			}
			c.frozen[h.PID] = z
			fresh = true
		}
		if !fresh {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if holders, err = g.holders(r, c.still(r, holders)); err != nil {
			return err
		}
	}
	for pid, z := range c.frozen {
		// It has let go of the socket, or got the number of one that did.
		if !slices.ContainsFunc(holders, func(h peer.Holder) bool { return h.PID == pid }) {
			z.Thaw()
			delete(c.frozen, pid)
		}
	}
	if len(c.frozen) == 0 {
		return ErrUnheld
	}
	return nil
}

// lateTries is how often a save is repeated at once because of packets that
// were on their way past the filter.
const lateTries = 5

// still returns those of holders that are frozen and have the descriptor yet:
// nothing can be new in their file tables, which may be the largest of all.
func (c *capture) still(r *Request, holders []peer.Holder) []peer.Holder {
	name := fmt.Sprintf("socket:[%d]", r.Inode)
	return slices.DeleteFunc(holders, func(h peer.Holder) bool {
		tid := h.PID
		if h.TID != 0 {
			tid = h.TID
		}
		now, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, h.FD))
		return c.frozen[h.PID] == nil || err != nil || now != name
	})
}

// conn saves the connection.
func (c *capture) conn() (*soccr.Conn, error) {
	conn, err := c.socket.Conn()
	for try := 1; errors.Is(err, soccr.ErrChanged) && try < lateTries; try++ {
		conn, err = c.socket.Conn()
	}
	if err != nil {
		return nil, err
	}
	if len(c.prior.Filter) == 0 {
		// The filter that is there is ours.
		conn.Info.Lost = slices.DeleteFunc(conn.Info.Lost, func(s string) bool { return s == "socket filter" })
	}
	return conn, nil
}

// release puts everything back. The socket can be used again before anybody
// can use it.
func (c *capture) release() error {
	var err error
	if c.begun {
		err = c.prior.PutBack(c.fd)
	}
	for _, z := range c.frozen {
		z.Thaw()
	}
	if len(c.frozen) > 0 {
		c.stood = time.Since(c.since)
	}
	if c.sock != nil {
		c.sock.Close()
	}
	return err
}

// holders returns who holds the connection. The one who asks may trace them
// all. known are holders that stand still; the tables of their processes are
// not looked at.
func (g *guard) holders(r *Request, known []peer.Holder) ([]peer.Holder, error) {
	skip := []int{os.Getpid()}
	for _, h := range known {
		skip = append(skip, h.PID)
	}
	found, err := peer.FindHolders(map[uint64]bool{r.Inode: true}, skip...)
	if err != nil {
		return nil, fmt.Errorf("look for the processes that hold the connection: %w", err)
	}
	holders := append(known, found[r.Inode]...)
	for _, h := range holders {
		switch h.PID {
		case g.daemon:
			return nil, errOurs
		case r.Tracer.PID:
			return nil, errItself
		}
	}
	if len(holders) == 0 {
		return nil, ErrUnheld
	}
	return holders, r.Tracer.Holders(holders)
}

// fetch duplicates the descriptor of one of the holders. Returns errMoved if
// none is the socket with that cookie any more.
func fetch(holders []peer.Holder, cookie uint64) (*os.File, error) {
	for _, h := range holders {
		f, err := peer.FetchSocket(h, cookie)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOENT):
		default:
			return nil, err
		}
	}
	return nil, errMoved
}
