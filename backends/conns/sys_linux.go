package conns

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disconnectFD is connect(2) with a family of AF_UNSPEC: it resets a
// connection.
func disconnectFD(fd int) error {
	raw := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unsafe.Sizeof(raw)); e != 0 {
		return os.NewSyscallError("connect", e)
	}
	return nil
}

// rawTCPInfo returns the struct tcp_info of a socket, as long as the kernel
// has it. It takes the lock of the socket.
func rawTCPInfo(fd int) ([]byte, error) {
	b := make([]byte, 1024)
	n := uint32(len(b))
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0); e != 0 {
		return nil, os.NewSyscallError("getsockopt TCP_INFO", e)
	}
	return b[:n], nil
}
