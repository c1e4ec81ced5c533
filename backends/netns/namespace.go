package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// errNotNetns means that a file is there, but is no network namespace.
var errNotNetns = fmt.Errorf("not a network namespace: %w", unix.EINVAL)

// openNamed opens the namespace name of ip-netns(8), whose directory is dir.
func openNamed(dir, name string) (*os.File, error) {
	if name == "." || name == ".." || strings.Contains(name, "/") {
		return nil, fmt.Errorf("%q is no name for a network namespace: %w", name, unix.EINVAL)
	}
	f, _, err := openNS(filepath.Join(dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no network namespace named %q in %s (create it: ip netns add %s): %w", name, dir, name, unix.ENOENT)
	case errors.Is(err, errNotNetns):
		return nil, fmt.Errorf("%w (left over? remove it: ip netns del %s)", err, name)
	}
	return f, err
}

// openPath opens a namespace by any path to a file of nsfs.
func openPath(path string) (*os.File, error) {
	f, _, err := openNS(path)
	return f, err
}

// openNS opens the network namespace at path. What is there is looked at
// before it is opened: opening a device or a FIFO has effects. Returns
// errNotNetns if it is something else.
func openNS(path string) (*os.File, stacknode.NSID, error) {
	probe, id, err := lookNS(path)
	if err != nil {
		return nil, id, err
	}
	defer probe.Close()
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", probe.Fd()))
	if err != nil {
		return nil, id, &fs.PathError{Op: "open", Path: path, Err: errnoOf(err)}
	}
	defer f.Close()
	if err := checkNetns(f); err != nil {
		return nil, id, fmt.Errorf("%s: %w", path, err)
	}
	bare, err := withoutMount(f)
	if err != nil {
		return nil, id, fmt.Errorf("%s: %w", path, err)
	}
	return bare, id, nil
}

// lookNS opens path without opening what is there (O_PATH), which is good
// for finding out which namespace it is.
func lookNS(path string) (*os.File, stacknode.NSID, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, stacknode.NSID{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	id, err := nsID(fd)
	if err != nil {
		f.Close()
		return nil, id, fmt.Errorf("%s: %w", path, err)
	}
	return f, id, nil
}

// nsID returns the identity of a namespace file.
func nsID(fd int) (id stacknode.NSID, err error) {
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return id, os.NewSyscallError("fstatfs", err)
	}
	if sfs.Type != unix.NSFS_MAGIC {
		return id, errNotNetns
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return id, os.NewSyscallError("fstat", err)
	}
	return stacknode.NSID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// checkNetns tells a network namespace from the other kinds.
func checkNetns(f *os.File) error {
	typ, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return os.NewSyscallError("ioctl NS_GET_NSTYPE", err)
	}
	if typ != unix.CLONE_NEWNET {
		return fmt.Errorf("a namespace of another kind: %w", errNotNetns)
	}
	return nil
}

// openPID opens the namespace that the process pid is in. The process is
// held by a pidfd meanwhile, so that the number cannot become another's.
func openPID(pid int) (_ *os.File, _ *pidWatch, err error) {
	w, err := watchPID(pid)
	if err != nil {
		return nil, nil, fmt.Errorf("no process %d: %w", pid, err)
	}
	f, _, err := openNS(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err == nil {
		// Alive now means that it was when the file was opened.
		if err = w.alive(); err != nil {
			f.Close()
		}
	}
	if err != nil {
		w.Close()
		return nil, nil, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	return f, w, nil
}

// errnoOf returns the innermost errno of err, or err.
func errnoOf(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}
