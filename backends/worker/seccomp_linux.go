package worker

import (
	"encoding/binary"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// From <linux/seccomp.h>; notifContinue since 5.5, ioctlAddFD since 5.9.
const (
	notifContinue  = 1 << 0
	ioctlNotifRecv = 0xc0502100
	ioctlNotifSend = 0xc0182101
	ioctlIDValid   = 0x40082102
	ioctlSetFlags  = 0x40082104
	syncWakeUp     = 1 << 0
	ioctlAddFD     = 0x40182103

	auditArchI386   = 0x40000003
	nrSocketcall386 = 102
)

func ioctlRaw(fd int, req uintptr, arg unsafe.Pointer) syscall.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg))
	return e
}

// notifRecv takes one call. It does not block: the listener is readable,
// and its only reader is the calling thread.
func notifRecv(fd int, n *Notif) syscall.Errno {
	return ioctlRaw(fd, ioctlNotifRecv, unsafe.Pointer(n))
}

func notifIDValid(fd int, id uint64) syscall.Errno {
	return ioctlRaw(fd, ioctlIDValid, unsafe.Pointer(&id))
}

// notifSync makes the kernel switch straight between the caller and us, as
// far as that is possible. It is no error where it cannot (before 6.6).
func notifSync(fd int) {
	_, _, _ = unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), ioctlSetFlags, syncWakeUp)
}

// notifSend ends the call id: with the errno e, or with the result val. A
// caller that is gone meanwhile (ENOENT) needs no answer.
func notifSend(fd int, id uint64, val int, e syscall.Errno, flags uint32) {
	resp := struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}{id: id, val: int64(val), error: -int32(e), flags: flags}
	_ = ioctlRaw(fd, ioctlNotifSend, unsafe.Pointer(&resp))
}

// notifAddFD gives the caller of the call id a copy of sock and returns its
// number there. It waits until the caller has run. A signal that comes
// meanwhile undoes it, so it is then done again.
func notifAddFD(fd int, id uint64, sock, fdFlags int) (number int, e syscall.Errno) {
	add := struct {
		id         uint64
		flags      uint32
		srcfd      uint32
		newfd      uint32
		newfdFlags uint32
	}{id: id, srcfd: uint32(sock), newfdFlags: uint32(fdFlags)}
	for {
		r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlAddFD, uintptr(unsafe.Pointer(&add)))
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

// A watched is the last thread that was looked at: while its pidfd answers,
// its number is nobody else's, and what is asked of it costs one call.
type watched struct {
	tid   int
	pidfd int // -1: none
	nsdir int // /proc/TID/ns; -1: none

	asked time.Time // when made was found out; zero: it is not known
	made  bool
}

// madeKept is how long it is not asked again whether a thread's sockets are
// made for it.
const madeKept = time.Second

// makes asks fn about a thread that inNetNS has just looked at.
func (w *watched) makes(tid int, fn func(tid, domain, typ, proto int) bool, domain, typ, proto int) bool {
	if fn == nil || !plain(domain, typ, proto) || typ&sockTypeMask != unix.SOCK_STREAM || proto == unix.IPPROTO_MPTCP {
		return false
	}
	if now := time.Now(); w.asked.IsZero() || now.Sub(w.asked) >= madeKept {
		w.made, w.asked = fn(tid, domain, typ, proto), now
	}
	return w.made
}

// turn makes the thread tid the one that is watched.
func (w *watched) turn(tid int) {
	if w.tid != tid {
		w.close()
		w.tid = tid
	}
}

func (w *watched) close() {
	if w.pidfd >= 0 {
		unix.Close(w.pidfd)
	}
	if w.nsdir >= 0 {
		unix.Close(w.nsdir)
	}
	*w = watched{pidfd: -1, nsdir: -1}
}

// credentials returns the effective ids of a thread. Fails with EINVAL or
// ENOTTY where the kernel cannot tell (before 6.13), with ESRCH if the
// thread is gone.
func (w *watched) credentials(tid int) (uid, gid uint32, e syscall.Errno) {
	for range 2 {
		if w.turn(tid); w.pidfd < 0 {
			fd, _, e := unix.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(tid), peer.PidfdThread, 0)
			if e != 0 {
				return 0, 0, e
			}
			w.pidfd = int(fd)
		}
		ids, err := peer.ThreadIDs(w.pidfd)
		if e = err; e != unix.ESRCH {
			return ids.UID, ids.GID, e
		}
		w.close() // the number may be another thread's by now
	}
	return 0, 0, e
}

// inNetNS tells whether a thread is in the network namespace id.
func (w *watched) inNetNS(tid int, id stacknode.NSID) bool {
	for range 2 {
		if w.turn(tid); w.nsdir < 0 {
			fd, err := unix.Open("/proc/"+strconv.Itoa(tid)+"/ns", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return false
			}
			w.nsdir = fd
		}
		var st unix.Stat_t
		if unix.Fstatat(w.nsdir, "net", &st, 0) == nil {
			return id == stacknode.NSID{Dev: st.Dev, Ino: st.Ino}
		}
		w.close()
	}
	return false
}

// isSocketcall tells whether the arguments are in the caller's memory: the
// one entry that 32-bit x86 programs had for all socket calls.
func isSocketcall(n *Notif) bool {
	return n.Arch == auditArchI386 && n.NR == nrSocketcall386
}

// readSocketcall copies the arguments of a socketcall, once.
func readSocketcall(p *peer.Proc, addr uint64) ([3]int, error) {
	var b [12]byte
	if err := p.ReadMemory(b[:], int64(addr)); err != nil {
		return [3]int{}, unix.EFAULT
	}
	var args [3]int
	for i := range args {
		args[i] = int(int32(binary.NativeEndian.Uint32(b[4*i:])))
	}
	return args, nil
}

// AnswerGone ends the call id of a listener with ENODEV.
func AnswerGone(listener *os.File, id uint64) {
	_ = control(listener, func(fd int) { notifSend(fd, id, 0, unix.ENODEV, 0) })
}

// RefuseCall takes one call of a listener, if there is any, and ends it
// with ENODEV. It returns false when no process is left under the filter.
func RefuseCall(listener *os.File) (alive bool) {
	alive = true
	_ = control(listener, func(fd int) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 0); err != nil {
			return
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			alive = fds[0].Revents&(unix.POLLHUP|unix.POLLERR) == 0
			return
		}
		var n Notif
		if notifRecv(fd, &n) == 0 {
			notifSend(fd, n.ID, 0, unix.ENODEV, 0)
		}
	})
	return alive
}

// IsListener tells whether f is the listener of a seccomp filter.
func IsListener(f *os.File) bool {
	is := false
	_ = control(f, func(fd int) {
		name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		is = err == nil && name == "anon_inode:seccomp notify"
	})
	return is
}
