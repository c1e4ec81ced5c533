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

// fstatat describes name in dir; a symbolic link is not followed.
func fstatat(dir *os.File, name string) (*syscall.Stat_t, error) {
	var st syscall.Stat_t
	// Package syscall has no fstatat; a path through the descriptor is the
	// same.
	err := syscall.Lstat("/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/"+name, &st)
	runtime.KeepAlive(dir)
	if err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return &st, nil
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
