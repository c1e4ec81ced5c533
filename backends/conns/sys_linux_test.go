package conns

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// missing makes memory whose pages are not there: whoever touches one, also
// the kernel, waits until the returned function is called.
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
