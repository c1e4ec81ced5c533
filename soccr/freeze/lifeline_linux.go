package freeze

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Announce is given one end of a lifeline, for each thread that traces. It
// passes it on to another process and need not close it.
//
// A lifeline is a socketpair whose other end only that thread has. If the
// program is killed, the lifeline hangs up some milliseconds before the
// thread lets go of what it froze: time for the other process to do what the
// program would have done. Before a thread ends in good order, a byte comes.
type Announce func(end *os.File) error

// lifeFD is the number of the thread's end. Of the files in the thread's
// table, the kernel closes the one with the highest number first.
const lifeFD = 512

// A lifeline is the thread's end.
type lifeline struct {
	fd   int
	slow int // how many inotify instances there are, see slowEnd
}

// newLifeline makes a lifeline for the calling thread, which is locked and
// ends with its goroutine. From then on the thread has a file table of its
// own: what it opens nobody else sees. slow counts the inotify instances of
// all lifelines.
func newLifeline(announce Announce, slow *atomic.Int32) (*lifeline, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "lifeline")
	err = announce(theirs)
	theirs.Close()
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	l := &lifeline{}
	if l.fd, err = separate(pair[0]); err != nil {
		return nil, fmt.Errorf("a file table for a thread: %w", err)
	}
	l.slowEnd(slow)
	return l, nil
}

// separate gives the thread a file table with little more than fd, which gets
// the number that it returns. It closes fd in the table of the process.
func separate(fd int) (life int, err error) {
	if err := startPoller(); err != nil {
		return -1, err
	}
	err = unix.Unshare(unix.CLONE_FILES)
	// By another thread, which has the table of the process.
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		unix.Close(fd)
	}()
	<-closed
	if err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := closeAllBut(fd); err != nil {
		return -1, err
	}
	if unix.Dup3(fd, lifeFD, unix.O_CLOEXEC) != nil {
		return fd, nil // RLIMIT_NOFILE is lower
	}
	return lifeFD, os.NewSyscallError("close", unix.Close(fd))
}

// startPoller makes the Go runtime open the files of its network poller. Were
// it the thread that did, nobody else would have them.
func startPoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	return errors.Join(r.Close(), w.Close())
}

// closeAllBut closes the descriptors of the thread but keep, the standard
// files, and those of the runtime's poller, which any thread may use to wake
// it.
func closeAllBut(keep int) error {
	const dir = "/proc/thread-self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= unix.Stderr || fd == keep {
			continue
		}
		name, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || name == "anon_inode:[eventpoll]" || name == "anon_inode:[eventfd]" {
			continue // an error: it was the directory
		}
		if err := unix.Close(fd); err != nil {
			return os.NewSyscallError("close", err)
		}
	}
	return nil
}

// Inotify instances, of which a user has 128: for each thread, and in all.
const (
	slowEach = 4
	slowMost = 16
)

// slowEnd makes the thread's end take some milliseconds after its lifeline is
// closed: to close an inotify instance that has a watch the kernel waits for
// a grace period. Where it is not to be had, or used up, the other process
// has to be quicker.
func (l *lifeline) slowEnd(used *atomic.Int32) {
	for range slowEach {
		if used.Add(1) > slowMost {
			used.Add(-1)
			return
		}
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			used.Add(-1)
			return
		}
		l.slow++
		// An event that never comes.
		_, _ = unix.InotifyAddWatch(fd, "/", unix.IN_DELETE_SELF)
	}
}

// farewell says that the thread ends in good order. Of nil it does nothing.
func (l *lifeline) farewell(used *atomic.Int32) {
	if l == nil {
		return
	}
	used.Add(-int32(l.slow))
	_, _ = unix.Write(l.fd, []byte{0}) // nobody there: nobody to tell
}
