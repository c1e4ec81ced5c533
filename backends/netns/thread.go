package netns

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNewNetns runs fn on an OS thread in a new network namespace. The thread
// is thrown away. fn makes raw system calls and starts no goroutine.
func inNewNetns(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		if unix.Gettid() == unix.Getpid() {
			// The first thread shows as the process in /proc/PID/ns and
			// cannot end. Locked here, it is not the one that runs the next.
			done <- inNewNetns(fn)
			runtime.UnlockOSThread()
			return
		}
		err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET))
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}
