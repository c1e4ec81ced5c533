package soccr

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mark is the SO_MARK of packets that restores forge, that of libsoccr:
// netfilter rules that lock a connection let it through.
const Mark = 0xC114

// dropAll is a classic BPF program: return 0, keep nothing.
var dropAll = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}

// dropUnmarked keeps packets that carry Mark only: from the stack that the
// socket is in, since a mark does not cross to another namespace.
var dropUnmarked = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfAdMark},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: Mark, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	{Code: unix.BPF_RET | unix.BPF_K},
}

// skfAdMark is SKF_AD_OFF + SKF_AD_MARK of <linux/filter.h>: the packet's mark.
const skfAdMark = 0xfffff000 + 20

// A Block keeps packets of the peer away from a socket, see [Block].
type Blocked struct {
	fd  int
	old []unix.SockFilter
}

// Block drops all packets that come in for the socket from now on, as a
// bad network would: the peer sends them again later. It does so with a
// socket filter, and remembers the one that is there. When it returns, no
// packet is on its way past the old one, which takes a grace period of the
// kernel's RCU, some milliseconds.
//
// The descriptor is borrowed until Undo. It returns EPERM for a filter that
// is locked (SO_LOCK_FILTER) and EACCES for an eBPF program, which cannot
// be read back.
func Block(fd int) (*Blocked, error) {
	b, err := BlockNoWait(fd)
	if err != nil {
		return nil, err
	}
	if err := gracePeriod(); err != nil {
		return nil, errors.Join(err, b.Undo())
	}
	// Packets that wait for whoever holds the socket's lock passed the old
	// filter; who gets the lock finds them done.
	if _, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil {
		return nil, errors.Join(os.NewSyscallError("ioctl SIOCINQ", err), b.Undo())
	}
	return b, nil
}

// BlockNoWait is Block without the wait: packets that are on their way past
// the old filter come in yet, for some microseconds. It is for a save that is
// short and can be repeated, since [Socket.Save] notices them: what is
// dropped the peer has to send again, after a timeout of its own.
func BlockNoWait(fd int) (*Blocked, error) {
	old, err := replaceableFilter(fd)
	if err != nil {
		return nil, err
	}
	if err := attachFilter(fd, dropAll); err != nil {
		return nil, err
	}
	return &Blocked{fd: fd, old: old}, nil
}

// Undo puts back the filter that was there before.
func (b *Blocked) Undo() error {
	if len(b.old) > 0 {
		return attachFilter(b.fd, b.old)
	}
	return detachFilter(b.fd)
}

// replaceableFilter returns the socket's classic filter, if any, and fails
// when that could not be put back.
func replaceableFilter(fd int) ([]unix.SockFilter, error) {
	locked, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt SO_LOCK_FILTER", err)
	}
	if locked != 0 {
		return nil, fmt.Errorf("the socket's filter is locked (SO_LOCK_FILTER): %w", unix.EPERM)
	}
	old, _, err := readFilter(fd)
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("the socket has an eBPF filter, which could not be put back: %w", err)
	}
	return old, err
}

func attachFilter(fd int, prog []unix.SockFilter) error {
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p))
}

func detachFilter(fd int) error {
	return os.NewSyscallError("setsockopt SO_DETACH_FILTER",
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0))
}

// gracePeriod waits until every packet that is being handled now is done.
// Kernels with nohz_full processors refuse membarrier(2)'s global command;
// there a pause that is long for a packet must do.
func gracePeriod() error {
	err := membarrierGlobal()
	if err == unix.EINVAL || err == unix.ENOSYS {
		time.Sleep(20 * time.Millisecond)
		return nil
	}
	return os.NewSyscallError("membarrier", err)
}
