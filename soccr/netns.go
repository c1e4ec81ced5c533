package soccr

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetNSOf runs fn, which starts no goroutine, in the network namespace of
// a socket: on the calling thread, so with its credentials. Where that is
// in the namespace already it only costs looking. A thread that cannot go
// home stays locked to the calling goroutine and ends with it.
func inNetNSOf(fd int, fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open /proc/thread-self/ns/net", err)
	}
	defer unix.Close(home)
	there, err := netnsOf(fd)
	if err != nil {
		return err
	}
	defer unix.Close(there)
	same, err := sameFile(home, there)
	if err != nil {
		return err
	}
	if same {
		return fn()
	}
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("setns", err)
	}
	err = fn()
	if herr := unix.Setns(home, unix.CLONE_NEWNET); herr != nil {
		runtime.LockOSThread() // once more than it is unlocked
		return errors.Join(err, os.NewSyscallError("setns back", herr))
	}
	return err
}

func sameFile(a, b int) (bool, error) {
	var sa, sb unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &sa), unix.Fstat(b, &sb)); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino, nil
}
