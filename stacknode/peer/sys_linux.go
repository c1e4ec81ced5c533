package peer

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

var errNoProcess error = unix.ESRCH

// nsfs ioctls, _IO(0xb7, n). Since 4.9 and (owner) 4.11. See ioctl_nsfs(2).
const (
	nsGetUserNSReq = 0xb701
	nsGetParentReq = 0xb702
	nsGetOwnerReq  = 0xb704
)

func openProc(tid int) (*os.File, error) {
	return openPath(unix.AT_FDCWD, "/proc/"+strconv.Itoa(tid), unix.O_RDONLY|unix.O_DIRECTORY)
}

func openAt(dir *os.File, name string) (*os.File, error) {
	f, err := openPath(int(dir.Fd()), name, unix.O_RDONLY)
	runtime.KeepAlive(dir)
	return f, err
}

func openPath(dirfd int, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if err != unix.EINTR {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

func readAt(dir *os.File, name string) ([]byte, error) {
	f, err := openAt(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	b.Grow(4096)
	_, err = b.ReadFrom(f)
	return b.Bytes(), err
}

func statNS(dir *os.File, name string) (stacknode.NSID, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, 0)
	runtime.KeepAlive(dir)
	if err != nil {
		return stacknode.NSID{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return stacknode.NSID{Dev: st.Dev, Ino: st.Ino}, nil
}

func statNSPath(path string) (stacknode.NSID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return stacknode.NSID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return stacknode.NSID{Dev: st.Dev, Ino: st.Ino}, nil
}

func statNSFile(f *os.File) (stacknode.NSID, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	runtime.KeepAlive(f)
	if err != nil {
		return stacknode.NSID{}, os.NewSyscallError("fstat", err)
	}
	return stacknode.NSID{Dev: st.Dev, Ino: st.Ino}, nil
}

func nsGet(f *os.File, req uint, name string) (*os.File, error) {
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(req), 0)
	runtime.KeepAlive(f)
	if e != 0 {
		return nil, os.NewSyscallError(name, e)
	}
	return os.NewFile(fd, name), nil
}

func nsGetUserNS(f *os.File) (*os.File, error) { return nsGet(f, nsGetUserNSReq, "NS_GET_USERNS") }
func nsGetParent(f *os.File) (*os.File, error) { return nsGet(f, nsGetParentReq, "NS_GET_PARENT") }

func nsGetOwner(f *os.File) (uint32, error) {
	var uid uint32
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), nsGetOwnerReq, uintptr(unsafe.Pointer(&uid)))
	runtime.KeepAlive(f)
	if e != 0 {
		return 0, os.NewSyscallError("NS_GET_OWNER_UID", e)
	}
	return uid, nil
}

// NSFileID returns the identity of an open namespace file.
func NSFileID(f *os.File) (stacknode.NSID, error) { return statNSFile(f) }

// fetch duplicates descriptor n of the thread, or of the process tgid where
// the kernel has no pidfds of threads. The thread waits for us, so its
// number is not another's.
func (p *Proc) fetch(tgid, n int) (fd int, err error) {
	if p.pidfd != nil {
		fd, err = unix.PidfdGetfd(int(p.pidfd.Fd()), n, 0)
		runtime.KeepAlive(p.pidfd)
		return fd, os.NewSyscallError("pidfd_getfd", err)
	}
	pidfd, err := unix.PidfdOpen(tgid, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	fd, err = unix.PidfdGetfd(pidfd, n, 0)
	return fd, os.NewSyscallError("pidfd_getfd", err)
}

// fdName returns what /proc shows of descriptor n of a thread. Returns EBADF
// if it is not open.
func fdName(tid, n int) (string, error) {
	name, err := readlink("/proc/" + strconv.Itoa(tid) + "/fd/" + strconv.Itoa(n))
	if errors.Is(err, unix.ENOENT) {
		err = unix.EBADF
	}
	return name, err
}

func ownFDName(fd int) (string, error) { return readlink("/proc/self/fd/" + strconv.Itoa(fd)) }

func readlink(path string) (string, error) {
	var buf [128]byte // the names that are looked for are shorter
	n, err := unix.Readlink(path, buf[:])
	if err != nil {
		return "", os.NewSyscallError("readlink", err)
	}
	return string(buf[:n]), nil
}

// closeFD closes a descriptor that nothing is known of. It may block.
func closeFD(fd int) { _ = unix.Close(fd) }

// pidfdInfo is struct pidfd_info, PIDFD_INFO_SIZE_VER0. Since 6.13.
type pidfdInfo struct {
	mask, cgroup    uint64
	pid, tgid, ppid uint32
	ruid, rgid      uint32
	euid, egid      uint32
	suid, sgid      uint32
	fsuid, fsgid    uint32
	exitCode        int32
}

const (
	ioctlPidfdInfo = 0xc040ff0b
	pidfdInfoCreds = 1 << 1
)

// PidfdThread is the flag PIDFD_THREAD of pidfd_open(2). Since 6.9.
const PidfdThread = unix.O_EXCL

// IDs are what the kernel tells of a pidfd.
type IDs struct {
	TGID             int
	RealUID, RealGID uint32
	UID, GID         uint32 // effective
}

// openThread returns a pidfd of a thread and its ids, or no pidfd where the
// kernel does not tell them by it.
func openThread(tid int) (*os.File, IDs, error) {
	fd, err := unix.PidfdOpen(tid, PidfdThread)
	switch {
	case errors.Is(err, unix.EINVAL):
		return nil, IDs{}, nil
	case err != nil:
		return nil, IDs{}, os.NewSyscallError("pidfd_open", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	c, err := threadIDs(f)
	if err != nil {
		f.Close()
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
			return nil, IDs{}, nil
		}
		return nil, IDs{}, err
	}
	return f, c, nil
}

// threadIDs is ThreadIDs for an open file.
func threadIDs(pidfd *os.File) (IDs, error) {
	ids, e := ThreadIDs(int(pidfd.Fd()))
	runtime.KeepAlive(pidfd)
	if e != 0 {
		return IDs{}, os.NewSyscallError("PIDFD_GET_INFO", e)
	}
	return ids, nil
}

// ThreadIDs returns the ids of the thread behind a pidfd, in one call that
// does not block. Fails with ESRCH if it is gone, with ENOTTY or EINVAL
// where the kernel cannot tell (before 6.13).
func ThreadIDs(pidfd int) (IDs, syscall.Errno) {
	info := pidfdInfo{mask: pidfdInfoCreds}
	_, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(pidfd), ioctlPidfdInfo, uintptr(unsafe.Pointer(&info)))
	if e == 0 && info.mask&pidfdInfoCreds == 0 {
		e = unix.ESRCH
	}
	return IDs{TGID: int(info.tgid), RealUID: info.ruid, RealGID: info.rgid, UID: info.euid, GID: info.egid}, e
}

// nsGetMntnsID is NS_GET_MNTNS_ID, _IOR(0xb7, 5, __u64). Since 6.11.
const nsGetMntnsID = 0x8008b705

// MountNS returns a number for the thread's mount namespace. Since 6.11 it
// is never used again; before, it is the inode number, which may be once
// the namespace is gone.
func (p *Proc) MountNS() (uint64, error) {
	dir, err := p.open()
	if err != nil {
		return 0, err
	}
	f, err := openAt(dir, "ns/mnt")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var id uint64
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), nsGetMntnsID, uintptr(unsafe.Pointer(&id)))
	if e == 0 {
		return id, nil
	}
	ns, err := statNSFile(f)
	return ns.Ino, err
}

// unnamed tells whether a UNIX socket, or its peer, has no address at all;
// call is SYS_GETSOCKNAME or SYS_GETPEERNAME. Package unix's own functions
// do not tell that from an abstract one.
func unnamed(fd int, call uintptr) bool {
	var sa unix.RawSockaddrUnix
	n := uint32(unsafe.Sizeof(sa))
	_, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&n)))
	return e == 0 && uintptr(n) == unsafe.Offsetof(sa.Path)
}
