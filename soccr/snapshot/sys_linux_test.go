package snapshot

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of <linux/ethtool.h>.
const (
	ethtoolSSG  = 0x19 // scatter-gather for sending
	ethtoolSTSO = 0x1f
	ethtoolSGRO = 0x2c
)

// ethtool sets a value of an interface in the namespace of this thread.
func ethtool(ifname string, cmd, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	arg := struct{ cmd, value uint32 }{cmd, value}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&arg)}
	copy(req.name[:unix.IFNAMSIZ-1], ifname)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); e != 0 {
		return os.NewSyscallError("ioctl SIOCETHTOOL", e)
	}
	return nil
}

func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// setMD5 gives a socket a key for its connection to peer.
func setMD5(fd, peer int) error {
	sa, err := unix.Getsockname(peer)
	if err != nil {
		return err
	}
	at := sa.(*unix.SockaddrInet4)
	sig := struct { // struct tcp_md5sig of <linux/tcp.h>
		family     uint16
		port       [2]byte
		addr       [4]byte
		_          [120]byte
		flags, len uint8
		keyLen     uint16
		ifindex    int32
		key        [80]byte
	}{family: unix.AF_INET, addr: at.Addr, keyLen: 3, key: [80]byte{'k', 'e', 'y'}}
	sig.port = [2]byte{byte(at.Port >> 8), byte(at.Port)}
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_TCP, unix.TCP_MD5SIG,
		uintptr(unsafe.Pointer(&sig)), unsafe.Sizeof(sig), 0)
	if e != 0 {
		return e
	}
	return nil
}

// missing makes memory whose pages are not there: whoever touches one,
// also the kernel, waits until the returned function is called.
func missing(size int) (mem []byte, provide func(), err error) {
	fd, _, e := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if e != 0 {
		return nil, nil, os.NewSyscallError("userfaultfd", e)
	}
	provide = sync.OnceFunc(func() { unix.Close(int(fd)) }) // with a page of zeroes
	mem, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		provide()
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	// UFFDIO_API and UFFDIO_REGISTER of <linux/userfaultfd.h>.
	api := struct{ api, features, ioctls uint64 }{api: 0xaa}
	register := struct{ start, len, mode, ioctls uint64 }{uint64(uintptr(unsafe.Pointer(&mem[0]))), uint64(size), 1, 0}
	for _, c := range []struct {
		cmd uintptr
		arg unsafe.Pointer
	}{{0xc018aa3f, unsafe.Pointer(&api)}, {0xc020aa00, unsafe.Pointer(&register)}} {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, c.cmd, uintptr(c.arg)); e != 0 {
			provide()
			return nil, nil, os.NewSyscallError("ioctl userfaultfd", e)
		}
	}
	return mem, provide, nil
}
