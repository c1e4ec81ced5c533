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

// listen binds a socket by which the next daemon finds the keeper. Keepers of
// several daemons can be there at a time, if these died one after the other.
// The daemon makes it, so that it is there before the keeper has started.
func listen(runDir string) (f *os.File, path string, err error) {
	for n := os.Getpid(); ; n++ {
		path = filepath.Join(runDir, fmt.Sprintf("keeper-%d.sock", n))
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", os.NewSyscallError("socket", err)
	}
	f = os.NewFile(uintptr(fd), "server")
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, 4)
	}
	if err != nil {
		f.Close()
		return nil, "", fmt.Errorf("listen at %s: %w", path, err)
	}
	return f, path, nil
}

func sockets(runDir string) []string {
	list, _ := filepath.Glob(filepath.Join(runDir, "keeper-*.sock")) // fails for a bad pattern only
	return list
}

// RemoveSockets removes the sockets of keepers that are no more.
func RemoveSockets(runDir string) {
	for _, path := range sockets(runDir) {
		if conn, err := dial(path); err == nil {
			conn.Close()
		}
	}
}

// dial connects to a keeper. One that was killed has left its socket, which
// is removed.
func dial(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	conn := os.NewFile(uintptr(fd), "keeper")
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if errors.Is(err, unix.ECONNREFUSED) {
		_ = os.Remove(path)
	}
	if err == nil {
		limit := unix.NsecToTimeval(patience.Nanoseconds())
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("keeper %s: %w", path, err)
	}
	return conn, nil
}

// patience is how long a keeper may take to notice that its daemon is gone.
const patience = 10 * time.Second

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
	// earlier are the sockets that were there before this daemon's keeper.
	earlier []string

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
	c.earlier = sockets(runDir)
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
	server, path, err := listen(c.runDir)
	if err == nil {
		err = send(mine, message{Op: opServer, Dir: path}, server)
		server.Close()
	}
	// Should the daemon die right now, this is there to be read.
	c.mu.Lock()
	if err == nil && c.mount.Op != "" {
		err = send(mine, c.mount, nil)
	}
	c.mu.Unlock()
	if err == nil {
		wait, err = c.spawn(its, c.slots.file)
	}
	if err != nil {
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

// Inherit fetches the listeners that the keepers of earlier daemons hold.
// taken is to be called when they are served, and tells those keepers to end.
// Without an earlier keeper the list is empty. With an error, what the others
// had is there all the same.
func (c *Client) Inherit() (heirs []Heir, taken func(), err error) {
	var conns []*os.File
	seen := map[uint64]bool{}
	for _, path := range c.earlier {
		conn, derr := dial(path)
		if derr != nil {
			continue // it ended meanwhile, and so had nothing more to hand on
		}
		list, ierr := inheritFrom(conn)
		if ierr != nil {
			conn.Close()
			if !errors.Is(ierr, unix.EPIPE) && !errors.Is(ierr, unix.ECONNRESET) {
				err = errors.Join(err, fmt.Errorf("take over from %s: %w", path, ierr))
			}
			continue
		}
		conns = append(conns, conn)
		for _, h := range list {
			// Two have it if a daemon died while it took over.
			if seen[h.ID] {
				h.Listener.Close()
				continue
			}
			seen[h.ID] = true
			heirs = append(heirs, h)
		}
	}
	return heirs, func() {
		for _, conn := range conns {
			_ = send(conn, message{Op: opTaken}, nil)
			conn.Close()
		}
	}, err
}

func inheritFrom(conn *os.File) (heirs []Heir, err error) {
	for {
		m, f, err := receive(conn)
		switch {
		case err != nil:
			for _, h := range heirs {
				h.Listener.Close()
			}
			return nil, err
		case m.Op == opRun && f != nil:
			heirs = append(heirs, Heir{m.ID, m.Data, f})
		case m.Op == opEnd:
			return heirs, nil
		}
	}
}
