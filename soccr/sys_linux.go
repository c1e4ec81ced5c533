package soccr

import (
	"bytes"
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// getsockopt fills the object at p, of n bytes, and returns how many bytes
// the kernel wrote.
func getsockopt(fd, level, opt int, p unsafe.Pointer, n uintptr) (int, error) {
	size := uint32(n)
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(p), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return 0, e
	}
	return int(size), nil
}

func setsockopt(fd, level, opt int, p unsafe.Pointer, n uintptr) error {
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt), uintptr(p), n, 0)
	if e != 0 {
		return e
	}
	return nil
}

func getTimeval(fd, level, opt int) (tv unix.Timeval, err error) {
	_, err = getsockopt(fd, level, opt, unsafe.Pointer(&tv), unsafe.Sizeof(tv))
	return tv, err
}

func getLinger(fd, level, opt int) (l unix.Linger, err error) {
	_, err = getsockopt(fd, level, opt, unsafe.Pointer(&l), unsafe.Sizeof(l))
	return l, err
}

func getUlong(fd, level, opt int) (v uintptr, err error) {
	_, err = getsockopt(fd, level, opt, unsafe.Pointer(&v), unsafe.Sizeof(v))
	return v, err
}

func setUlong(fd, level, opt int, v uintptr) error {
	return setsockopt(fd, level, opt, unsafe.Pointer(&v), unsafe.Sizeof(v))
}

// getString reads an option that is a name of at most 16 bytes, with or
// without its NUL.
func getString(fd, level, opt int) (string, error) {
	var b [16]byte
	n, err := getsockopt(fd, level, opt, unsafe.Pointer(&b), unsafe.Sizeof(b))
	if err != nil {
		return "", err
	}
	name, _, _ := bytes.Cut(b[:n], []byte{0})
	return string(name), nil
}

func getsockoptBytes(fd, level, opt int, b []byte) (int, error) {
	return getsockopt(fd, level, opt, unsafe.Pointer(&b[0]), uintptr(len(b)))
}

func setsockoptBytes(fd, level, opt int, b []byte) error {
	return setsockopt(fd, level, opt, unsafe.Pointer(&b[0]), uintptr(len(b)))
}

// getPeername is getpeername(2) for all states (SO_PEERNAME). The kernel
// refuses a buffer that is larger than the address.
func getPeername(fd, family int) (unix.Sockaddr, error) {
	if family == unix.AF_INET {
		var raw unix.RawSockaddrInet4
		_, err := getsockopt(fd, unix.SOL_SOCKET, unix.SO_PEERNAME, unsafe.Pointer(&raw), unsafe.Sizeof(raw))
		return &unix.SockaddrInet4{Addr: raw.Addr, Port: hostPort(raw.Port)}, err
	}
	var raw unix.RawSockaddrInet6
	_, err := getsockopt(fd, unix.SOL_SOCKET, unix.SO_PEERNAME, unsafe.Pointer(&raw), unsafe.Sizeof(raw))
	return &unix.SockaddrInet6{Addr: raw.Addr, Port: hostPort(raw.Port), ZoneId: raw.Scope_id}, err
}

// hostPort converts a port from network order.
func hostPort(port uint16) int {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return int(binary.BigEndian.Uint16(b[:]))
}

// readFilter returns the classic filter of a socket and its length in
// instructions, 0 for none. EACCES: it is an eBPF program.
func readFilter(fd int) ([]unix.SockFilter, int, error) {
	// The size is counted in instructions, not bytes.
	n, err := getsockopt(fd, unix.SOL_SOCKET, unix.SO_GET_FILTER, nil, 0)
	if err != nil || n == 0 {
		return nil, n, os.NewSyscallError("getsockopt SO_GET_FILTER", err)
	}
	prog := make([]unix.SockFilter, n)
	n, err = getsockopt(fd, unix.SOL_SOCKET, unix.SO_GET_FILTER, unsafe.Pointer(&prog[0]), uintptr(n))
	if err != nil {
		return nil, 0, os.NewSyscallError("getsockopt SO_GET_FILTER", err)
	}
	return prog[:n], n, nil
}

// disconnect is connect(2) with a family of AF_UNSPEC.
func disconnect(fd int) error {
	raw := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unsafe.Sizeof(raw)); e != 0 {
		return e
	}
	return nil
}

func membarrierGlobal() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL of <linux/membarrier.h>; since 4.3
	if _, _, e := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); e != 0 {
		return e
	}
	return nil
}

// netnsOf returns a descriptor for the network namespace of a socket, which
// the caller closes. Since 4.10; needs CAP_NET_ADMIN over it.
func netnsOf(fd int) (int, error) {
	ns, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGSKNS, 0)
	if e != 0 {
		return -1, os.NewSyscallError("ioctl SIOCGSKNS", e)
	}
	return int(ns), nil
}
