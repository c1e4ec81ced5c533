package guardian

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
)

// patience is how long the guardian may take to put something back. Then it
// is killed, and the daemon does it.
const patience = 5 * time.Second

// A Client is the daemon's side of the guardian. Its methods are safe for
// concurrent use.
type Client struct {
	log   *slog.Logger
	spawn func(control *os.File) (*os.Process, error)

	mu     sync.Mutex // guards the fields below
	link   *link      // to the guardian; nil: there is none
	closed bool
}

// Start starts a guardian. spawn starts the process with control as its
// descriptor 3; it is called again if the process was killed and is needed.
func Start(log *slog.Logger, spawn func(control *os.File) (*os.Process, error)) (*Client, error) {
	c := &Client{log: log, spawn: spawn}
	if _, err := c.current(); err != nil {
		return nil, err
	}
	return c, nil
}

// current returns the link, to a new guardian if there is none.
func (c *Client) current() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, stacknode.ErrClosed
	}
	if c.link != nil {
		return c.link, nil
	}
	mine, its, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer its.Close()
	proc, err := c.spawn(its)
	if err != nil {
		mine.Close()
		return nil, fmt.Errorf("start the guardian: %w", err)
	}
	c.link = &link{client: c, conn: mine, proc: proc, ended: make(chan struct{}), ops: map[uint64]*operation{}}
	go c.link.read()
	return c.link, nil
}

// PID returns that of the guardian, 0 if there is none at the moment.
func (c *Client) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return 0
	}
	return c.link.proc.Pid
}

// Close ends the guardian, which first puts everything back.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return nil
	}
	err := control(l.conn, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
	select {
	case <-l.ended:
	case <-time.After(patience):
		l.kill("it does not end")
		<-l.ended
	}
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, os.ErrClosed) {
		err = nil // it had ended already
	}
	return err
}

// Save saves a connection, which goes on. Its owner does not notice but for
// the time. When ctx ends Save returns its error, and everything is put back
// soon. If the guardian is killed Save tries once more with another one.
//
// Returns a *stacknode.HolderError if the one who asks may not trace a
// process that holds the connection, a *soccr.UnsaveableError if it cannot be
// saved, EBUSY if a holder is being traced by somebody else, ErrUnheld if
// there is no holder, stacknode.ErrPaused if the connection is held.
func (c *Client) Save(ctx context.Context, r Request) (*soccr.Conn, error) {
	conn, err := c.save(ctx, r)
	if errors.Is(err, ErrDied) {
		conn, err = c.save(ctx, r)
	}
	return conn, err
}

func (c *Client) save(ctx context.Context, r Request) (*soccr.Conn, error) {
	op, err := c.begin(message{Op: opSave, Request: &r})
	if err != nil {
		return nil, err
	}
	a, err := op.wait(ctx)
	if err != nil {
		op.abandon()
		return nil, err
	}
	<-op.done
	conn, err := readConn(a.file)
	c.log.Debug("saved in repair mode", "cookie", r.Cookie, "stood", a.Stood)
	return conn, err
}

// begin starts an operation.
func (c *Client) begin(m message) (*operation, error) {
	l, err := c.current()
	if err != nil {
		return nil, err
	}
	op, err := l.add()
	if err != nil {
		return nil, err
	}
	m.ID = op.id
	if err := send(l.conn, m, nil, 0); err != nil {
		if !errors.Is(err, unix.EPIPE) && !errors.Is(err, os.ErrClosed) {
			l.kill("it takes no messages: " + err.Error())
		}
		<-op.done // with the end of the link
		return nil, op.err
	}
	return op, nil
}

// lose forgets the link, whose guardian is gone. It tells whether that was
// asked for.
func (c *Client) lose(l *link) (closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.link = nil
	}
	return c.closed
}
