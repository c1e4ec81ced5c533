package peer

import (
	"encoding/binary"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direntName is where the name is in struct linux_dirent64.
const direntName = 19

// socketName is how the link to a socket begins; the number of its inode and
// a bracket follow.
const socketName = "socket:["

// eachSocket calls fn for every descriptor of dir, a /proc/PID/fd, that is a
// socket. buf is for its use. It allocates nothing, since most of what it
// looks at is nobody's business.
func eachSocket(dir *os.File, buf []byte, fn func(fd int, inode uint64)) error {
	dirfd := dir.Fd()
	defer runtime.KeepAlive(dir)
	var link [64]byte // such names are shorter
	for {
		n, err := unix.Getdents(int(dirfd), buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return os.NewSyscallError("getdents64", err)
		}
		for b := buf[:n]; len(b) > direntName; {
			size := int(binary.NativeEndian.Uint16(b[16:])) // d_reclen
			if fd, ok := number(b[direntName:]); ok {
				// The name in the buffer ends with a zero.
				l, _, e := unix.Syscall6(unix.SYS_READLINKAT, dirfd, uintptr(unsafe.Pointer(&b[direntName])),
					uintptr(unsafe.Pointer(&link)), uintptr(len(link)), 0, 0)
				if e == unix.EACCES || e == unix.EPERM {
					return os.NewSyscallError("readlink", e)
				}
				if e == 0 && l > uintptr(len(socketName)) && string(link[:len(socketName)]) == socketName {
					if inode, ok := number(link[len(socketName):l]); ok {
						fn(int(fd), inode)
					}
				}
			}
			b = b[size:]
		}
	}
}

// number reads the digits that b begins with.
func number(b []byte) (n uint64, ok bool) {
	for i, c := range b {
		if c < '0' || c > '9' {
			return n, i > 0
		}
		n = n*10 + uint64(c-'0')
	}
	return n, len(b) > 0
}

// links returns the link count of dir.
func links(dir *os.File) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(dir.Fd()), &st)
	runtime.KeepAlive(dir)
	return uint64(st.Nlink), os.NewSyscallError("fstat", err)
}

const kcmpFiles = 2 // KCMP_FILES of <linux/kcmp.h>

// sameFiles tells whether two threads share their file table, by kcmp(2).
// Where the kernel cannot tell (no CONFIG_KCMP) they do not, and what is in
// both tables is found twice.
func sameFiles(a, b int) bool {
	r, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpFiles, 0, 0, 0)
	return e == 0 && r == 0
}
