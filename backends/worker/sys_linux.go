package worker

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

const sockTypeMask = 0xf // SOCK_TYPE_MASK of <linux/net.h>

// The setters below are raw: package syscall's and x/sys's apply to every
// thread of the process, these to the calling one, which is locked.

func rawSetEUID(uid uint32) error {
	return rawErr(unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)))
}

func rawSetEGID(gid uint32) error {
	return rawErr(unix.RawSyscall(unix.SYS_SETRESGID, ^uintptr(0), uintptr(gid), ^uintptr(0)))
}

func rawSetgroups(groups []uint32) error {
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	err := rawErr(unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0))
	runtime.KeepAlive(groups)
	return err
}

// rawSetEffective makes the effective set caps, as far as it is permitted.
func rawSetEffective(caps stacknode.CapSet) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := rawErr(unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data)), 0)); err != nil {
		return err
	}
	data[0].Effective = data[0].Permitted & uint32(caps)
	data[1].Effective = data[1].Permitted & uint32(caps>>32)
	return rawErr(unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data)), 0))
}

func rawErr(_, _ uintptr, e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

func rawSocket(domain, typ, proto int) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_SOCKET, uintptr(domain), uintptr(typ), uintptr(proto))
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

func setns(f *os.File) error {
	err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
	runtime.KeepAlive(f)
	return os.NewSyscallError("setns", err)
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// The calls below never block, so the scheduler need not hear of them.

// fastSocket is socket(2) for kinds that load no module.
func fastSocket(domain, typ, proto int) (int, syscall.Errno) {
	fd, _, e := unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain), uintptr(typ), uintptr(proto))
	if e != 0 {
		return -1, e
	}
	return int(fd), 0
}

// fastClose closes a socket that is new: nothing lingers on it.
func fastClose(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// outq returns how many bytes sent on a UNIX socket were not read yet.
func outq(fd int) (int32, syscall.Errno) {
	var n int32
	_, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return n, e
}

func epollWait(epfd int, events []unix.EpollEvent) (int, error) {
	for {
		n, err := unix.EpollWait(epfd, events, -1)
		if err != unix.EINTR {
			return n, os.NewSyscallError("epoll_wait", err)
		}
	}
}

// A chanBuf holds the message of one request and its answer.
type chanBuf struct {
	req  uapi.ChanReq
	rep  uapi.ChanRep
	cred unix.Ucred

	iov  unix.Iovec
	hdr  unix.Msghdr
	oob  [32]byte // CMSG_SPACE(sizeof(struct ucred)): no room for descriptors
	roob [24]byte // CMSG_SPACE(sizeof(int))
}

// recv receives one request and who sent it. Descriptors that came with it
// are closed by the kernel, and hdr.Flags has MSG_CTRUNC: the sender's ids
// fill the buffer, which only who holds this end could turn off.
func (b *chanBuf) recv(fd int) (int, syscall.Errno) {
	b.cred = unix.Ucred{Pid: 0, Uid: ^uint32(0), Gid: ^uint32(0)}
	b.iov.Base = (*byte)(unsafe.Pointer(&b.req))
	b.iov.SetLen(int(unsafe.Sizeof(b.req)))
	b.hdr = unix.Msghdr{Iov: &b.iov, Iovlen: 1, Control: &b.oob[0]}
	b.hdr.SetControllen(len(b.oob))
	n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdr)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	if e != 0 {
		return 0, e
	}
	if b.hdr.Controllen >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b.oob[0]))
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_CREDENTIALS {
			b.cred = *(*unix.Ucred)(unsafe.Pointer(&b.oob[unix.SizeofCmsghdr]))
		}
	}
	return int(n), 0
}

// send sends the answer, with the socket sock unless that is negative.
func (b *chanBuf) send(fd, sock int) syscall.Errno {
	b.iov.Base = (*byte)(unsafe.Pointer(&b.rep))
	b.iov.SetLen(int(unsafe.Sizeof(b.rep)))
	b.hdr = unix.Msghdr{Iov: &b.iov, Iovlen: 1}
	if sock >= 0 {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b.roob[0]))
		h.Level, h.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
		h.SetLen(unix.CmsgLen(4))
		*(*int32)(unsafe.Pointer(&b.roob[unix.SizeofCmsghdr])) = int32(sock)
		b.hdr.Control = &b.roob[0]
		b.hdr.SetControllen(len(b.roob))
	}
	_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdr)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return e
}

// control calls fn with the number of f, which keeps its O_NONBLOCK.
func control(f *os.File, fn func(fd int)) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { fn(int(fd)) })
}
