package snapshot

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNewNetns runs fn on a thread in a new network namespace, and ends the
// thread. fn starts no goroutine that needs the namespace.
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
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// loopbackUp sets the loopback interface up in the namespace of this thread.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("ioctl SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}
