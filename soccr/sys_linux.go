package soccr

import (
	"bytes"
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
