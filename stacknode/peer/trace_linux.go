package peer

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pidfdInfo1 is struct pidfd_info, PIDFD_INFO_SIZE_VER1. Since 6.16.
type pidfdInfo1 struct {
	pidfdInfo
	coredumpMask uint32
	_            uint32
}

// ioctlPidfdInfo1 is PIDFD_GET_INFO with the size of that.
const ioctlPidfdInfo1 = 0xc048ff0b

// Bits of pidfdInfo1, <linux/pidfd.h>.
const (
	pidfdInfoCoredump = 1 << 4
	pidfdCoredumpUser = 1 << 2 // SUID_DUMP_USER
)

// dumpable tells whether the memory of the thread is SUID_DUMP_USER; a
// thread that has none any more is not. Before 6.16 the owner of its files
// in /proc tells: root's instead of its own when it is not dumpable
// (fs/proc/base.c, task_dump_owner). Of root's own threads that tells
// nothing, and they count as not dumpable.
func (p *Proc) dumpable(st Status) (bool, error) {
	if p.pidfd != nil {
		info := pidfdInfo1{pidfdInfo: pidfdInfo{mask: pidfdInfoCreds | pidfdInfoCoredump}}
		_, _, e := unix.Syscall(unix.SYS_IOCTL, p.pidfd.Fd(), ioctlPidfdInfo1, uintptr(unsafe.Pointer(&info)))
		runtime.KeepAlive(p.pidfd)
		if e == unix.ESRCH {
			return false, os.NewSyscallError("PIDFD_GET_INFO", e)
		}
		if e == 0 && info.mask&pidfdInfoCoredump != 0 {
			return info.coredumpMask&pidfdCoredumpUser != 0, nil
		}
	}
	dir, err := p.open()
	if err != nil {
		return false, err
	}
	var fst unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), "stat", &fst, 0)
	runtime.KeepAlive(dir)
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: "stat", Err: err}
	}
	return st.UID != 0 && fst.Uid == st.UID, nil
}
