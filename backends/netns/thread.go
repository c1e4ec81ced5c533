package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onLostThread runs fn on an OS thread that is thrown away, so that fn may
// change what the thread is in. fn makes raw system calls and starts no
// goroutine.
func onLostThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		if unix.Gettid() == unix.Getpid() {
			// The first thread shows as the process in /proc/PID/ns and
			// cannot end. Locked here, it is not the one that runs the next.
			done <- onLostThread(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

// inNewNetns runs fn on a thread in a new network namespace.
func inNewNetns(fn func() error) error {
	return onLostThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		return fn()
	})
}

// withoutMount returns a file of the namespace f that does not keep the
// mount busy by which f was opened: umount of it works as without us. The
// caller owns both.
func withoutMount(f *os.File) (bare *os.File, err error) {
	err = onLostThread(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		bare, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("enter the namespace: %w", err)
	}
	return bare, nil
}
