package keeper

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/worker"
)

// grace is how long a dead mount stays for a daemon that comes right back.
const grace = 400 * time.Millisecond

// A keeper is the state of the keeper process. One thread does everything.
type keeper struct {
	log   *slog.Logger
	slots *Slots

	control *os.File // nil once the daemon is gone
	server  *os.File // where the next daemon connects
	path    string   // of server
	next    *os.File // the next daemon, while it takes over
	held    map[uint64]held
	mount   message
	died    time.Time
	daemon  *process
}

// Main is the keeper process: control and slots are what the daemon gave
// it. It returns when the daemon is gone and no listener is left.
func Main(control, slots *os.File, log *slog.Logger) error {
	shared, err := OpenSlots(slots)
	if err != nil {
		return err
	}
	k := &keeper{log: log, slots: shared, control: control, held: map[uint64]held{}}
	if k.daemon, err = watchParent(); err != nil {
		return err
	}
	defer k.removeSocket()
	for {
		if k.control == nil && len(k.held) == 0 && k.mount.Op != opMount && k.next == nil {
			return nil
		}
		if err := k.step(); err != nil {
			return err
		}
	}
}

// removeSocket removes where the next daemon connects, and the directory if
// that was the last thing in it: the daemon left it to us when it ended before
// the programs under stackfs run.
func (k *keeper) removeSocket() {
	_ = os.Remove(k.path)
	dir := filepath.Dir(k.path)
	if os.Remove(dir) == nil {
		_ = os.Remove(filepath.Dir(dir))
	}
}

// step waits for one event or the end of the grace period.
func (k *keeper) step() error {
	var fds []unix.PollFd
	var who []func() error
	watch := func(f *os.File, fn func() error) {
		if f != nil {
			fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
			who = append(who, fn)
		}
	}
	watch(k.control, k.fromDaemon)
	if k.control != nil {
		watch(k.daemon.dead, k.daemonEnded)
	}
	watch(k.next, k.fromNext) // first: the next but one may be there already
	if k.control == nil {
		watch(k.server, k.accept)
	}
	if k.control == nil && k.next == nil {
		for id, h := range k.held {
			watch(h.f, func() error { return k.call(id, h.f) })
		}
	}
	timeout := -1
	if k.control == nil && k.mount.Op == opMount {
		timeout = int(max(0, time.Until(k.died.Add(grace)).Milliseconds()))
		if timeout == 0 {
			k.detach()
			return nil
		}
	}
	_, err := unix.Poll(fds, timeout)
	if err != nil && err != unix.EINTR {
		return os.NewSyscallError("poll", err)
	}
	for i, fd := range fds {
		if fd.Revents != 0 {
			if err := who[i](); err != nil {
				return err
			}
		}
	}
	return nil
}

// daemonEnded is called when the daemon's first thread is gone. Another one
// may be stuck in the close of a file whose server, some user, does not
// answer; then the daemon's descriptors, and with them the mount, are not
// gone.
func (k *keeper) daemonEnded() error {
	// What it sent before comes first.
	for k.control != nil && readable(k.control) {
		if err := k.fromDaemon(); err != nil {
			return err
		}
	}
	if k.control == nil {
		return nil
	}
	k.control.Close()
	k.control = nil
	return k.orphaned()
}

func readable(f *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

func (k *keeper) fromDaemon() error {
	if k.control == nil {
		return nil
	}
	m, f, err := receive(k.control)
	if err != nil {
		k.control.Close()
		k.control = nil
		return k.orphaned()
	}
	switch m.Op {
	case opAdd:
		k.drop(m.ID)
		k.held[m.ID] = held{m.Data, f}
	case opDel:
		k.drop(m.ID)
	case opMount, opClean:
		k.mount = m
	case opServer:
		k.server, k.path = f, m.Dir
	}
	return nil
}

// orphaned is what happens when the daemon is gone. The calls that it had
// taken come first: their programs wait.
func (k *keeper) orphaned() error {
	k.died = time.Now()
	k.slots.inFlight(func(run, id uint64) {
		if h, ok := k.held[run]; ok {
			worker.AnswerGone(h.f, id)
		}
	})
	return nil
}

// call answers one call of a run whose daemon is gone.
func (k *keeper) call(id uint64, f *os.File) error {
	if h, ok := k.held[id]; ok && h.f == f && !worker.RefuseCall(f) {
		k.drop(id)
	}
	return nil
}

func (k *keeper) drop(id uint64) {
	if h, ok := k.held[id]; ok {
		if h.f != nil {
			h.f.Close()
		}
		delete(k.held, id)
	}
}

// accept hands a copy of every listener to the next daemon, and waits until
// it says that it serves them.
func (k *keeper) accept() error {
	fd, _, err := unix.Accept4(int(k.server.Fd()), unix.SOCK_CLOEXEC)
	if err != nil {
		return nil
	}
	if k.next != nil {
		unix.Close(fd)
		return nil
	}
	k.next = os.NewFile(uintptr(fd), "next")
	for id, h := range k.held {
		if err = send(k.next, message{Op: opRun, ID: id, Data: h.data}, h.f); err != nil {
			break
		}
	}
	if err == nil {
		err = send(k.next, message{Op: opEnd}, nil)
	}
	if err != nil {
		k.next.Close()
		k.next = nil
	}
	return nil
}

func (k *keeper) fromNext() error {
	m, _, err := receive(k.next)
	k.next.Close()
	k.next = nil
	if err == nil && m.Op == opTaken {
		for id := range k.held {
			k.drop(id)
		}
		k.mount = message{}
	}
	return nil // else it died: go on as before
}

// detach removes the daemon's dead mount, if it is still there and the one
// that is seen. Numbers of mounts come again: a daemon that is back may have
// been given that of the dead mount.
func (k *keeper) detach() {
	dir, id := k.mount.Dir, k.mount.Mnt
	k.mount = message{}
	top, err := TopMount(dir)
	if err != nil || top.ID != id {
		return
	}
	// What is looked at is what is detached, whatever is mounted meanwhile.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		k.log.Error("open the dead mount", "dir", dir, "err", err)
		return
	}
	defer unix.Close(fd)
	flags := unix.MNT_DETACH
	if k.daemon.stuck() {
		// What is left of it holds the lock, so nobody else has mounted
		// here. MNT_FORCE ends the connection.
		flags |= unix.MNT_FORCE
	} else if !dead(fd) {
		return
	}
	err = unix.Unmount("/proc/self/fd/"+strconv.Itoa(fd), flags)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		k.log.Error("detach the dead mount", "dir", dir, "err", err)
	}
}

// dead tells whether the mount of fd has no daemon. One that does not
// answer has.
func dead(fd int) bool {
	answer := make(chan error, 1)
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	go func() {
		defer unix.Close(own)
		var st unix.Statfs_t
		answer <- unix.Fstatfs(own, &st)
	}()
	select {
	case err := <-answer:
		return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
	case <-time.After(time.Second):
		return false
	}
}
