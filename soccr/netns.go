package soccr

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetNSOf runs fn on a thread in the network namespace of a socket. fn
// starts no goroutine. Where that is the caller's own it only costs looking.
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
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- os.NewSyscallError("setns", err)
			return
		}
		err := fn()
		if herr := unix.Setns(home, unix.CLONE_NEWNET); herr != nil {
			err = errors.Join(err, os.NewSyscallError("setns back", herr)) // still locked: the runtime ends the thread
		} else {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func sameFile(a, b int) (bool, error) {
	var sa, sb unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &sa), unix.Fstat(b, &sb)); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino, nil
}
