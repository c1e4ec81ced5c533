package netns

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// A pidWatch holds on to a process, so that its end can be seen and its
// number is not taken for another's.
type pidWatch struct {
	f    *os.File // pidfd
	done chan struct{}
}

// watchPID needs Linux 5.10 for PIDFD_NONBLOCK, by which the runtime's
// poller waits for the process instead of a thread.
func watchPID(pid int) (*pidWatch, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &pidWatch{f: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// alive returns ESRCH if the process has ended.
func (w *pidWatch) alive() error {
	err := w.control(func(fd int) error { return unix.PidfdSendSignal(fd, 0, nil, 0) })
	if errors.Is(err, unix.EPERM) {
		return nil // there, and another user's: the daemon gave up CAP_KILL
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// start calls gone, on a goroutine of its own, when the process has ended.
func (w *pidWatch) start(gone func()) {
	w.done = make(chan struct{})
	go func() {
		defer close(w.done)
		if w.wait() {
			go gone() // closes this watch, which waits for us
		}
	}()
}

// wait returns true when the process has ended, false after Close.
func (w *pidWatch) wait() bool {
	rc, err := w.f.SyscallConn()
	if err != nil {
		return false
	}
	// A pidfd is readable when the process has ended; see pidfd_open(2).
	err = rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
	return err == nil
}

// Close lets go of the process and waits for the goroutine of start.
func (w *pidWatch) Close() error {
	err := w.f.Close()
	if w.done != nil {
		<-w.done
	}
	return err
}

func (w *pidWatch) control(fn func(fd int) error) error {
	rc, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := rc.Control(func(fd uintptr) { err = fn(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
