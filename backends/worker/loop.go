package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

const (
	// roundEvents is how many ready descriptors one look takes in.
	roundEvents = 512
	// roundShare is how many requests of one user are served in a round,
	// so that a user with many channels does not hold up another.
	roundShare = 8
)

// A loop is a thread that lives in a worker's namespace. It waits on all
// open channels of the stack, or on one run. Ending it ends the thread.
type loop struct {
	w    *Worker
	log  *slog.Logger
	epfd int
	wake int // eventfd

	channels atomic.Int64

	mu      sync.Mutex // guards the fields below
	items   map[int32]item
	closing bool
	done    chan struct{}

	// The fields below are the thread's own.
	current *stacknode.Identity // assumed; nil: the daemon's
	slot    *Slot
	watched watched
	buf     chanBuf
	served  map[uint32]int
}

// An item is a descriptor that the loop waits on.
type item interface {
	user() uint32
	// ready serves one request. It returns false when the item is over.
	ready(l *loop, events uint32) bool
	// end is called once, when the loop no longer waits on the item. hup
	// tells that the other side is gone, not the loop.
	end(hup bool)
}

func newLoop(w *Worker) (*loop, error) {
	l := &loop{w: w, log: w.cfg.Log, items: map[int32]item{}, done: make(chan struct{}), served: map[uint32]int{}, watched: watched{pidfd: -1, nsdir: -1}}
	var err error
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(l.epfd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	err = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, l.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l.wake)})
	if err == nil {
		started := make(chan error, 1)
		go l.thread(started)
		err = <-started
	}
	if err != nil {
		unix.Close(l.wake)
		unix.Close(l.epfd)
		return nil, err
	}
	return l, nil
}

// thread is the loop's goroutine. It never unlocks its thread, which the
// runtime therefore ends with it.
func (l *loop) thread(started chan<- error) {
	runtime.LockOSThread()
	if l.w.ns != nil {
		if err := setns(l.w.ns); err != nil {
			started <- err
			return
		}
	}
	if l.w.cfg.Slots != nil {
		if l.slot = l.w.cfg.Slots.Take(); l.slot == nil {
			started <- unix.EMFILE
			return
		}
	}
	started <- nil
	l.run()

	l.mu.Lock()
	items := l.items
	l.items = nil
	l.mu.Unlock()
	if l.slot != nil {
		l.w.cfg.Slots.Put(l.slot)
	}
	l.watched.close()
	for fd, it := range items {
		l.unwatch(fd)
		it.end(false)
	}
	l.mu.Lock()
	l.closing = true // nobody writes to wake any more
	l.mu.Unlock()
	unix.Close(l.wake)
	unix.Close(l.epfd)
	close(l.done)
}

func (l *loop) run() {
	events := make([]unix.EpollEvent, roundEvents)
	for {
		n, err := epollWait(l.epfd, events)
		if err != nil {
			l.log.Error("wait for requests", "err", err)
			return
		}
		clear(l.served)
		for i := range events[:n] {
			if !l.handle(events[i].Fd, events[i].Events, n > 1) {
				return
			}
		}
	}
}

// handle serves one ready descriptor; it returns false when the loop ends.
func (l *loop) handle(fd int32, events uint32, shared bool) bool {
	l.mu.Lock()
	it, closing := l.items[fd], l.closing
	l.mu.Unlock()
	if closing {
		return false
	}
	if it == nil {
		return true
	}
	if shared && events&unix.EPOLLHUP == 0 { // what ended is let go of at once
		uid := it.user()
		if l.served[uid] >= roundShare {
			return true // level-triggered: it comes again
		}
		l.served[uid]++
	}
	if !it.ready(l, events) {
		l.remove(fd, it, true)
	}
	return true
}

func (l *loop) add(fd int, it item) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return stacknode.ErrClosed
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.items[int32(fd)] = it
	return nil
}

func (l *loop) remove(fd int32, it item, hup bool) {
	l.mu.Lock()
	found := l.items[fd] == it
	if found {
		delete(l.items, fd)
		l.unwatch(fd)
	}
	l.mu.Unlock()
	if found {
		it.end(hup)
	}
}

// unwatch forgets fd. Closing alone is not enough: the file may be open in
// the caller too, and epoll watches files.
func (l *loop) unwatch(fd int32) {
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, int(fd), nil); err != nil && !errors.Is(err, unix.ENOENT) {
		l.log.Error("stop waiting", "err", err)
	}
}

// mask changes what the loop waits for on fd.
func (l *loop) mask(fd int, events uint32) {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.items[int32(fd)] != nil {
		_ = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_MOD, fd, &ev)
	}
}

// close ends the loop and waits until its thread has left.
func (l *loop) close() error {
	err := l.signalEnd()
	if err == nil {
		<-l.done
	}
	return err
}

// signalEnd makes the loop end soon.
func (l *loop) signalEnd() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return nil
	}
	l.closing = true
	if _, err := unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return fmt.Errorf("wake the thread of the stack: %w", err)
	}
	return nil
}

// become makes the thread's identity id, without capabilities. The thread
// keeps it until somebody else's request comes.
func (l *loop) become(uid, gid uint32) error {
	if l.current != nil && l.current.UID == uid && l.current.GID == gid {
		return nil
	}
	if !l.shed() {
		return errors.New("the thread cannot give up an identity")
	}
	id := &stacknode.Identity{UID: uid, GID: gid}
	if err := assume(*id, 0); err != nil {
		return errors.Join(err, revert(*id))
	}
	l.current = id
	return nil
}

// shed gives the thread the daemon's identity back. Sockets in flight are
// counted against the real uid, which all callers share, and the limit is
// only for threads without CAP_SYS_ADMIN (net/unix/af_unix.c).
func (l *loop) shed() bool {
	if l.current == nil {
		return true
	}
	if err := revert(*l.current); err != nil {
		l.log.Error("thread of the stack", "err", err)
		return false
	}
	l.current = nil
	return true
}

// plain tells whether a socket needs no right but that to use the stack,
// and no module of the kernel's that may have to be loaded first. Such
// sockets are made on the loop's thread.
func plain(domain, typ, proto int) bool {
	if domain != unix.AF_INET && domain != unix.AF_INET6 {
		return false
	}
	if typ&^(sockTypeMask|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK) != 0 {
		return false
	}
	switch typ & sockTypeMask {
	case unix.SOCK_STREAM:
		return proto == 0 || proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_MPTCP
	case unix.SOCK_DGRAM:
		return proto == 0 || proto == unix.IPPROTO_UDP
	}
	return false
}

// plainSocket makes a plain socket for uid and gid on the loop's thread.
func (l *loop) plainSocket(uid, gid uint32, domain, typ, proto int) (fd int, errno syscall.Errno) {
	if l.w.refuses() {
		return -1, unix.ENODEV
	}
	if err := l.w.lacks(domain, proto); err != nil {
		return -1, Errno(err)
	}
	if err := l.become(uid, gid); err != nil {
		l.log.Error("take on the caller's identity", "uid", uid, "err", err)
		return -1, unix.EIO
	}
	fd, errno = fastSocket(domain, typ|unix.SOCK_CLOEXEC, proto)
	if errno == 0 && l.w.tells(domain, typ) {
		if !l.shed() {
			fastClose(fd)
			return -1, unix.EIO
		}
		l.w.cfg.Made(fd)
	}
	return fd, errno
}
