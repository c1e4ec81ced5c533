package guardian

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A link is one guardian process.
type link struct {
	client *Client
	conn   *os.File
	proc   *os.Process
	ended  chan struct{} // closed when it is over and everything put back

	mu   sync.Mutex // guards the fields below
	last uint64
	ops  map[uint64]*operation
	gone bool

	lives []*os.File // of read alone: the lifelines of the guardian's threads
}

func (l *link) kill(why string) {
	l.client.log.Error("the guardian is killed", "why", why)
	_ = l.proc.Kill() // it may have ended
}

// read handles what the guardian says until it ends.
func (l *link) read() {
	for l.step() {
	}
	l.end()
}

// step waits until the guardian says something, or one of its threads is
// dying. It returns false when the guardian is gone.
func (l *link) step() bool {
	fds := []unix.PollFd{{Fd: int32(l.conn.Fd()), Events: unix.POLLIN}}
	for _, f := range l.lives {
		fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
	}
	if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
		l.kill(os.NewSyscallError("poll", err).Error())
		return false
	}
	if fds[0].Revents != 0 {
		return l.hear() // first, since it says what there is to put back
	}
	dying := false
	lives := l.lives
	l.lives = nil
	for i, f := range lives {
		if fds[i+1].Revents == 0 {
			l.lives = append(l.lives, f)
			continue
		}
		if n, err := f.Read(make([]byte, 1)); n == 0 || err != nil {
			dying = true
		}
		f.Close()
	}
	if dying {
		l.putBack()
	}
	return true
}

// hear handles one message. It returns false at the end.
func (l *link) hear() bool {
	m, f, err := receive(l.conn)
	switch {
	case err == nil:
		l.handle(m, f)
	case errors.Is(err, unix.ECONNRESET):
		// It ended with orders unread; what it said is yet to come.
	case errors.Is(err, unix.EPIPE):
		return false
	default:
		l.kill(err.Error())
		return false
	}
	return true
}

func (l *link) handle(m message, f *os.File) {
	l.mu.Lock()
	op := l.ops[m.ID]
	l.mu.Unlock()
	switch {
	case m.Op == opLife && f != nil:
		l.lives = append(l.lives, f)
		return
	case op == nil:
	case m.Op == opBox && f != nil:
		op.keep(&box{file: f})
		return
	case m.Op == opEnd:
		l.forget(op, m.Error.unpack())
	default:
		select {
		case op.answers <- answer{m, f}:
			return
		default: // nobody waits for so many
		}
	}
	if f != nil {
		f.Close()
	}
}

// putBack puts everything back that the guardian has not.
func (l *link) putBack() {
	for _, op := range l.left() {
		if op.box == nil {
			continue
		}
		if err := op.box.putBack(); err != nil {
			l.client.log.Error("a connection may be left in repair mode", "err", err)
		}
	}
}

// left returns the operations that have not ended.
func (l *link) left() []*operation {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := make([]*operation, 0, len(l.ops))
	for _, op := range l.ops {
		left = append(left, op)
	}
	return left
}

// end is called when the guardian is gone.
func (l *link) end() {
	l.mu.Lock()
	l.gone = true
	l.mu.Unlock()
	// Also what was put back when its threads began to die: another of them
	// may have been in the middle of something.
	l.putBack()
	// The last of its threads lets go of what it froze: the next guardian
	// would find that traced.
	state := l.reap()
	closed := l.client.lose(l)
	left := l.left()
	for _, op := range left {
		l.forget(op, ErrDied)
	}
	l.conn.Close()
	for _, f := range l.lives {
		f.Close()
	}
	if !closed {
		l.client.log.Warn("the guardian ended; the next request starts another", "state", state, "connections", len(left))
	}
	close(l.ended)
}

// reap waits for the end of the process, which can be late if a thread is
// stuck in the kernel, and returns what it died of.
func (l *link) reap() string {
	state := make(chan string, 1)
	go func() {
		s, err := l.proc.Wait()
		if err != nil {
			state <- err.Error()
			return
		}
		state <- s.String()
	}()
	select {
	case s := <-state:
		return s
	case <-time.After(reapPatience):
		return "not all of its threads have ended"
	}
}

// reapPatience is how long reap waits.
const reapPatience = 2 * time.Second

func (l *link) add() (*operation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return nil, ErrDied
	}
	l.last++
	op := &operation{id: l.last, link: l, answers: make(chan answer, 4), done: make(chan struct{})}
	l.ops[op.id] = op
	return op, nil
}

// forget ends an operation.
func (l *link) forget(op *operation, err error) {
	op.keep(nil)
	l.mu.Lock()
	delete(l.ops, op.id)
	l.mu.Unlock()
	op.err = err
	close(op.done)
}
