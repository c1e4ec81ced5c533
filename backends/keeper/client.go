package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the name of the keeper's socket in the directory of the
// mount below /run.
const SocketName = "keeper.sock"

// restartPause is the least time between two starts of the keeper.
const restartPause = 500 * time.Millisecond

// A Client is the daemon's side: it starts the keeper and starts it anew
// when that is killed.
type Client struct {
	// Spawn starts the keeper process with control and slots as its
	// descriptors 3 and 4.
	spawn  func(control, slots *os.File) (wait func() error, err error)
	runDir string
	log    *slog.Logger
	slots  *Slots
	ended  chan struct{}

	mu     sync.Mutex // guards the fields below
	conn   *os.File
	held   map[uint64]held
	mount  message
	closed bool
}

type held struct {
	data json.RawMessage
	f    *os.File
}

// Start starts a keeper. runDir is where it is found by the next daemon.
func Start(runDir string, slots *Slots, log *slog.Logger, spawn func(control, slots *os.File) (func() error, error)) (*Client, error) {
	c := &Client{spawn: spawn, runDir: runDir, log: log, slots: slots, held: map[uint64]held{}, ended: make(chan struct{})}
	wait, err := c.start()
	if err != nil {
		return nil, err
	}
	go c.watch(wait)
	return c, nil
}

// start starts a keeper process and tells it everything.
func (c *Client) start() (wait func() error, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	mine, its := os.NewFile(uintptr(pair[0]), "keeper"), os.NewFile(uintptr(pair[1]), "daemon")
	defer its.Close()
	if wait, err = c.spawn(its, c.slots.file); err != nil {
		mine.Close()
		return nil, fmt.Errorf("start the keeper: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		mine.Close() // and so it ends
		return wait, nil
	}
	c.conn = mine
	if c.mount.Op != "" {
		err = send(mine, c.mount, nil)
	}
	for id, h := range c.held {
		err = errors.Join(err, send(mine, message{Op: opAdd, ID: id, Data: h.data}, h.f))
	}
	return wait, err
}

// watch starts the keeper again whenever it ends, until Close.
func (c *Client) watch(wait func() error) {
	defer close(c.ended)
	born := time.Now()
	for {
		err := wait()
		c.mu.Lock()
		closed := c.closed
		if c.conn != nil {
			c.conn.Close()
			c.conn = nil
		}
		c.mu.Unlock()
		if closed {
			return
		}
		c.log.Warn("the keeper ended; starting it again", "err", err)
		if lived := time.Since(born); lived < restartPause {
			time.Sleep(restartPause - lived)
		}
		born = time.Now()
		if wait, err = c.start(); err != nil {
			c.log.Error("no keeper: calls in flight will not survive the daemon", "err", err)
			return
		}
	}
}

// Mounted tells the keeper what to detach if the daemon dies.
func (c *Client) Mounted(dir string, id int) error {
	return c.tell(message{Op: opMount, Dir: dir, Mnt: id}, nil)
}

// Unmounted tells the keeper that there is nothing to detach any more.
func (c *Client) Unmounted() error { return c.tell(message{Op: opClean}, nil) }

// Add makes the keeper hold a listener, with the daemon's record of it. A
// second Add of the same id changes the record.
func (c *Client) Add(id uint64, data json.RawMessage, listener *os.File) error {
	c.mu.Lock()
	c.held[id] = held{data, listener}
	c.mu.Unlock()
	return c.tell(message{Op: opAdd, ID: id, Data: data}, listener)
}

// Delete makes the keeper let go of a listener.
func (c *Client) Delete(id uint64) error {
	c.mu.Lock()
	delete(c.held, id)
	c.mu.Unlock()
	return c.tell(message{Op: opDel, ID: id}, nil)
}

func (c *Client) tell(m message, f *os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Op == opMount || m.Op == opClean {
		c.mount = m
	}
	if c.conn == nil {
		return nil // start tells it all
	}
	err := send(c.conn, m, f)
	if errors.Is(err, syscall.EPIPE) {
		return nil // it died; watch starts it again
	}
	return err
}

// Close lets go of the keeper. With listeners left it lives on and answers
// their calls.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	left := len(c.held)
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
	c.mu.Unlock()
	if left == 0 {
		<-c.ended
	}
}

// A Heir is a listener that an earlier daemon left behind.
type Heir struct {
	ID       uint64
	Data     json.RawMessage
	Listener *os.File // owned by whoever holds the Heir
}

// Inherit fetches the listeners that the keeper of an earlier daemon holds.
// taken is to be called when they are served, and tells that keeper to end.
// Without an earlier keeper the list is empty.
func Inherit(runDir string) (heirs []Heir, taken func(), err error) {
	taken = func() {}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, taken, os.NewSyscallError("socket", err)
	}
	conn := os.NewFile(uintptr(fd), "keeper")
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(runDir, SocketName)})
	if err != nil {
		conn.Close()
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, taken, nil
		}
		return nil, taken, os.NewSyscallError("connect", err)
	}
	for {
		m, f, err := receive(conn)
		switch {
		case err != nil:
			conn.Close()
			for _, h := range heirs {
				h.Listener.Close()
			}
			return nil, taken, fmt.Errorf("take over from the keeper: %w", err)
		case m.Op == opRun && f != nil:
			heirs = append(heirs, Heir{m.ID, m.Data, f})
		case m.Op == opEnd:
			return heirs, func() {
				_ = send(conn, message{Op: opTaken}, nil)
				conn.Close()
			}, nil
		}
	}
}
