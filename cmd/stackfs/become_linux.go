package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstPassed is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstPassed = 3

// become makes this process the program at path, which has sock as descriptor
// 3, or as 0 and 1 with inetd. It returns only if that failed, and says then
// how the connection ended.
func become(sock *os.File, inetd bool, path string, argv []string) error {
	runtime.LockOSThread() // for good: this thread becomes the program
	environ := withoutListen(os.Environ())
	if !inetd {
		environ = append(environ, "LISTEN_FDS=1", "LISTEN_FDNAMES=connection", "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	}
	err := passSocket(sock, inetd)
	if err == nil {
		err = syscall.Exec(path, argv, environ)
	}
	// In repair mode a close sends nothing. Needs CAP_NET_ADMIN.
	if unix.SetsockoptInt(int(sock.Fd()), unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON) != nil {
		return fmt.Errorf("%w; the connection was closed", err)
	}
	return fmt.Errorf("%w; the connection was let go, and the peer noticed nothing", err)
}

// passSocket puts sock where the program is to find it.
func passSocket(sock *os.File, inetd bool) error {
	// The other threads of this process keep their descriptors: the runtime
	// may have one of these numbers, for its poller.
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("unshare descriptors: %w", err)
	}
	fd := int(sock.Fd())
	// Programs expect that of a socket that they are given.
	if err := unix.SetNonblock(fd, false); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	to := []int{firstPassed}
	if inetd {
		to = []int{0, 1}
	}
	for _, n := range to {
		if n == fd { // dup3 refuses that
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
				return os.NewSyscallError("fcntl", err)
			}
			continue
		}
		if err := unix.Dup3(fd, n, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return nil
}

// withoutListen drops what somebody before us passed sockets by.
func withoutListen(environ []string) []string {
	return slices.DeleteFunc(environ, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID":
			return true
		}
		return false
	})
}
