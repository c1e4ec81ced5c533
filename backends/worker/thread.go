package worker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// onThread runs fn on an OS thread inside ns (nil: where the daemon is)
// that has the identity id (nil: the daemon's) and, with an identity, no
// effective capability but caps. A thread that cannot go home is
// discarded.
func onThread(ns *os.File, id *stacknode.Identity, caps stacknode.CapSet, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := visit(ns, id, caps, fn)
		if home {
			runtime.UnlockOSThread() // else the runtime ends the thread
		}
		done <- err
	}()
	return <-done
}

// onThisThread is onThread without another thread, for an fn that does not
// block. A thread that cannot go home would serve others in the wrong place
// and with the wrong rights: then the daemon ends.
func onThisThread(ns *os.File, id *stacknode.Identity, fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := visit(ns, id, 0, fn)
	if !home {
		// Not a panic, which package fuse recovers from.
		fmt.Fprintln(os.Stderr, "stackfs: a thread cannot leave the stack that it visited")
		os.Exit(1)
	}
	return err
}

func visit(ns *os.File, id *stacknode.Identity, caps stacknode.CapSet, fn func() error) (home bool, err error) {
	if ns == nil {
		return assumeAnd(id, caps, fn)
	}
	own, err := ownNetNS()
	if err != nil {
		return true, err
	}
	if err := setns(ns); err != nil {
		return true, err
	}
	home, err = assumeAnd(id, caps, fn)
	return home && setns(own) == nil, err
}

// ownNetNS is the daemon's namespace, in which every thread is that is not
// a loop's or on a visit.
var ownNetNS = sync.OnceValues(func() (*os.File, error) {
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("the daemon's network namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), "/proc/self/ns/net"), nil
})

func assumeAnd(id *stacknode.Identity, caps stacknode.CapSet, fn func() error) (home bool, err error) {
	if id == nil {
		return true, fn()
	}
	if err := assume(*id, caps); err != nil {
		return revert(*id) == nil, err
	}
	err = fn()
	return revert(*id) == nil, err
}

// assume gives the calling thread the effective ids and the groups of id,
// and of its permitted capabilities the effective ones in caps. The real
// and saved uid stay 0, so nobody else may signal or trace the thread and
// revert works. Since the effective uid goes with the file system uid, the
// sockets made belong to id.
func assume(id stacknode.Identity, caps stacknode.CapSet) error {
	if len(id.Groups) > 0 {
		if err := rawSetgroups(id.Groups); err != nil {
			return os.NewSyscallError("setgroups", err)
		}
	}
	if id.GID != 0 {
		if err := rawSetEGID(id.GID); err != nil {
			return os.NewSyscallError("setresgid", err)
		}
	}
	// A change of the effective uid from 0 clears the effective set,
	// capabilities(7); for uid 0 we do.
	if id.UID != 0 {
		if err := rawSetEUID(id.UID); err != nil {
			return os.NewSyscallError("setresuid", err)
		}
	}
	if id.UID == 0 || caps != 0 {
		if err := rawSetEffective(caps); err != nil {
			return os.NewSyscallError("capset", err)
		}
	}
	return nil
}

// revert takes assume(id) back, also where that failed in the middle.
func revert(id stacknode.Identity) error {
	var err error
	if id.UID != 0 {
		// Makes the permitted set effective again; capabilities(7).
		err = rawSetEUID(0)
	} else {
		err = rawSetEffective(^stacknode.CapSet(0))
	}
	if id.GID != 0 {
		err = errors.Join(err, rawSetEGID(0))
	}
	if len(id.Groups) > 0 {
		err = errors.Join(err, rawSetgroups(nil))
	}
	if err != nil {
		return fmt.Errorf("give the thread its identity back: %w", err)
	}
	return nil
}

// netnsCookie returns the SO_NETNS_COOKIE of the calling thread's
// namespace; 0 where the kernel has none (before 5.14).
func netnsCookie() (uint64, error) {
	fd, err := rawSocket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	return c, err
}
