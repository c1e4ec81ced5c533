package worker

import (
	"errors"
	"fmt"
	"os"
	"runtime"

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

func visit(ns *os.File, id *stacknode.Identity, caps stacknode.CapSet, fn func() error) (home bool, err error) {
	if ns != nil {
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return true, err
		}
		defer own.Close()
		if err := setns(ns); err != nil {
			return true, err
		}
		home, err = assumeAnd(id, caps, fn)
		return home && setns(own) == nil, err
	}
	return assumeAnd(id, caps, fn)
}

func assumeAnd(id *stacknode.Identity, caps stacknode.CapSet, fn func() error) (home bool, err error) {
	if id == nil {
		return true, fn()
	}
	if err := assume(*id, caps); err != nil {
		return revert() == nil, err
	}
	err = fn()
	return revert() == nil, err
}

// assume gives the calling thread the effective ids and the groups of id,
// and of its permitted capabilities the effective ones in caps. The real
// and saved uid stay 0, so nobody else may signal or trace the thread and
// revert works. Since the effective uid goes with the file system uid, the
// sockets made belong to id.
func assume(id stacknode.Identity, caps stacknode.CapSet) error {
	if err := rawSetgroups(id.Groups); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	if err := rawSetEGID(id.GID); err != nil {
		return os.NewSyscallError("setresgid", err)
	}
	// A change of the effective uid from 0 clears the effective set,
	// capabilities(7); for uid 0 we do.
	if err := rawSetEUID(id.UID); err != nil {
		return os.NewSyscallError("setresuid", err)
	}
	if id.UID == 0 || caps != 0 {
		if err := rawSetEffective(caps); err != nil {
			return os.NewSyscallError("capset", err)
		}
	}
	return nil
}

// revert gives the calling thread the daemon's identity back.
func revert() error {
	// The capabilities first: with uid 0 throughout, nothing raises them.
	err := rawSetEUID(0)
	err = errors.Join(err, rawSetEffective(^stacknode.CapSet(0)))
	err = errors.Join(err, rawSetEGID(0))
	err = errors.Join(err, rawSetgroups(nil))
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
