package launch

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// installFilter puts the calling thread, and all that it will become, under
// prog and returns the listener. Returns EBUSY if a listener is above
// already, EACCES without CAP_SYS_ADMIN and no_new_privs.
func installFilter(prog []bpf.RawInstruction) (*os.File, error) {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: (*unix.SockFilter)(unsafe.Pointer(&prog[0]))}
	// WAIT_KILLABLE_RECV (since 5.19): a signal neither interrupts a call
	// that the daemon works on nor makes it be done twice. SPEC_ALLOW: no
	// slower system calls for the sake of programs that are not trusted.
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW |
		unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	fd, e := seccomp(flags, &fprog)
	if e == unix.EINVAL {
		fd, e = seccomp(flags&^unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &fprog)
	}
	runtime.KeepAlive(prog)
	if e != 0 {
		return nil, os.NewSyscallError("seccomp", e)
	}
	return os.NewFile(fd, "seccomp listener"), nil
}

func seccomp(flags uintptr, fprog *unix.SockFprog) (uintptr, syscall.Errno) {
	fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(fprog)))
	return fd, e
}

// underFilter tells whether the calling thread is under any seccomp filter.
func underFilter() bool {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return err == nil && mode == 2
}

func noNewPrivs() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// canAdmin tells whether the calling thread has CAP_SYS_ADMIN in its user
// namespace.
func canAdmin() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// defaultAction gives sig back its default action and lets it through to the
// calling thread.
func defaultAction(sig syscall.Signal) {
	// struct sigaction as the kernel has it, all zero: SIG_DFL. The size of
	// the mask is that of sigset_t in the kernel, 8 bytes.
	var act struct{ handler, flags, restorer, mask uintptr }
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
	mask := uint64(1) << (sig - 1)
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_UNBLOCK, uintptr(unsafe.Pointer(&mask)), 0, 8, 0, 0)
}

// ioctl issues a command of package uapi; arg is changed in place.
func ioctl(node *os.File, cmd uint, arg []byte) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, node.Fd(), uintptr(cmd), uintptr(unsafe.Pointer(&arg[0])))
	runtime.KeepAlive(node)
	if e != 0 {
		return os.NewSyscallError("ioctl", e)
	}
	return nil
}

// handIn gives the supervisor above us a ticket, as a system call that only
// our supervisors understand.
func handIn(domain uint32, ticket uint64) error {
	_, _, e := unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain), uintptr(uint32(ticket)), uintptr(ticket>>32))
	if e != 0 {
		return e
	}
	return nil
}

// dropAll gives up every capability of the calling thread, also those that
// it would keep over an exec.
func dropAll() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return os.NewSyscallError("capset", unix.Capset(&hdr, &data[0]))
}
