package fs

import (
	"os"
	"runtime"
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func fstat(f *os.File) (*syscall.Stat_t, error) {
	var st syscall.Stat_t
	err := syscall.Fstat(int(f.Fd()), &st)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	return &st, nil
}

// openEntry opens name in dir for nothing but to refer to it; a symbolic
// link is not followed.
func openEntry(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	runtime.KeepAlive(dir)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// fstatat describes name in dir; a symbolic link is not followed.
func fstatat(dir *os.File, name string) (*syscall.Stat_t, error) {
	f, err := openEntry(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return fstat(f)
}

// chmodEntry changes the mode of what openEntry opened. fchmod(2) does not
// take such a descriptor, the link in /proc leads to the same inode.
func chmodEntry(f *os.File, mode uint32) error {
	err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), mode&0o7777)
	runtime.KeepAlive(f)
	return os.NewSyscallError("chmod", err)
}

func chownEntry(f *os.File, uid, gid int) error {
	err := unix.Fchownat(int(f.Fd()), "", uid, gid, unix.AT_EMPTY_PATH)
	runtime.KeepAlive(f)
	return os.NewSyscallError("chown", err)
}

func readlinkAt(dir *os.File, name string) ([]byte, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	runtime.KeepAlive(dir)
	if err != nil {
		return nil, &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return buf[:n], nil
}

// readdir lists dir by a descriptor of its own, so that lists made at the
// same time do not share a position.
func readdir(dir *os.File) ([]fuse.DirEntry, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	runtime.KeepAlive(dir)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	list := make([]fuse.DirEntry, 0, len(names))
	for _, name := range names {
		st, err := fstatat(dir, name)
		if err != nil {
			continue // gone meanwhile
		}
		list = append(list, fuse.DirEntry{Name: name, Mode: st.Mode & syscall.S_IFMT, Ino: belowIno(st)})
	}
	return list, nil
}

// closeSilently closes the socket of a connection that nobody took, so that
// its peer does not notice: in repair mode nothing is sent. Needs
// CAP_NET_ADMIN over its namespace; without it the peer sees the end of the
// connection.
func closeSilently(f *os.File) {
	_ = unix.SetsockoptInt(int(f.Fd()), unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
	f.Close()
}
