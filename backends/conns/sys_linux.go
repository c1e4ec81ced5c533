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
