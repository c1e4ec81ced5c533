package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A capability that a process of ours keeps, and why. README.md has the
// same list for its readers; a test compares them with what is in force.
type capability struct {
	number int
	name   string
	reason string
}

// daemonCaps are those of the daemon, in every thread.
var daemonCaps = []capability{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "enter and make network namespaces, mount and unmount, load the BPF program that saves connections"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "links, addresses, routes and sysctls of stacks; netlink sockets of callers who have it; restore and end connections"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", "raw and packet sockets for callers who may have them; the FINs of connections that are restored"},
	{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", "bind the clones of a listener that has a port below 1024"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "fetch a caller's reply socket, look at its namespaces, find who holds a connection"},
	{unix.CAP_SETUID, "CAP_SETUID", "make a socket with the caller's uid"},
	{unix.CAP_SETGID, "CAP_SETGID", "make a socket with the caller's groups"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "list the directory mounted over and the descriptors of processes, whoever they belong to"},
	{unix.CAP_CHOWN, "CAP_CHOWN", "pass on chown to a device of the directory mounted over; give clones to the owner of their listener"},
	{unix.CAP_FOWNER, "CAP_FOWNER", "pass on chmod to a device of the directory mounted over"},
}

// keeperCaps are those of the keeper.
var keeperCaps = []capability{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "detach the mount of a daemon that died"},
}

// guardianCaps are those of the guardian.
var guardianCaps = []capability{
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "freeze the owners of a connection, fetch its descriptor"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "find the owners of a connection"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "turn repair mode on and off"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "enter the network namespace of a connection"},
}

// dropCapabilities leaves every thread of the process no capability but
// keep, and none that a program could get back by exec.
func dropCapabilities(keep []capability) error {
	var mask uint64
	for _, c := range keep {
		mask |= 1 << c.number
	}
	locked := false // the bounding set
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if mask&(1<<c) != 0 {
			continue
		}
		_, _, e := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0)
		if e == syscall.ENOTSUP {
			return errors.New("this program was built with cgo, which cannot change all threads (build it with CGO_ENABLED=0)")
		}
		// EINVAL: the kernel does not have that one. EPERM: a daemon that
		// dropped its own has started us, the keeper.
		if e == syscall.EPERM {
			locked = true
		} else if e != 0 && e != syscall.EINVAL {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, e)
		}
	}
	if locked {
		// Then an exec gives no more than there is: capabilities(7).
		if _, _, e := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
			return fmt.Errorf("no new privileges: %w", e)
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &have[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for i := range data {
		data[i].Permitted = have[i].Permitted & uint32(mask>>(32*i))
		data[i].Effective = data[i].Permitted
	}
	_, _, e := syscall.AllThreadsSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0)
	if e != 0 {
		return fmt.Errorf("capset: %w", e)
	}
	_, _, e = syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	if e != 0 && e != syscall.EINVAL {
		return fmt.Errorf("clear the ambient set: %w", e)
	}
	return nil
}

// becomeRoot gives every thread root's group and no other: what a thread
// has when it visits a stack is then the caller's alone.
func becomeRoot() error {
	if err := syscall.Setgroups(nil); err != nil {
		return os.NewSyscallError("setgroups", err)
	}
	return os.NewSyscallError("setresgid", syscall.Setresgid(0, 0, 0))
}

// nameProcess gives the process the name that ps(1) shows: it may have been
// started by way of /proc/self/exe.
func nameProcess() {
	name := []byte("stackfs\x00")
	_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0)
}
