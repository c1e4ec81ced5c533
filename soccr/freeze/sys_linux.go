package freeze

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What peek says of a thread.
const (
	nothing = iota // it runs
	halted         // it has stopped
	ended
)

// sigchld is struct siginfo of a SIGCHLD on machines of 64 bits,
// <asm-generic/siginfo.h>.
type sigchld struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

// waitid asks about a thread that this one traces, without waiting.
func waitid(tid, options int) (info sigchld, err error) {
	for {
		_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(tid), uintptr(unsafe.Pointer(&info)),
			uintptr(options|unix.WNOHANG|unix.WALL), 0, 0)
		if e == 0 {
			return info, nil
		}
		if e != unix.EINTR {
			return info, os.NewSyscallError("waitid", e)
		}
	}
}

// peek tells what became of a thread. It leaves the news to be had again: the
// kernel keeps a signal that is about to be delivered where wait takes it
// from, and would lose it if we died between that and the detach.
func peek(tid int) (what, status int, err error) {
	info, err := waitid(tid, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT)
	if err != nil || info.pid == 0 {
		return nothing, 0, err
	}
	switch info.code {
	case 1, 2, 3: // CLD_EXITED, CLD_KILLED, CLD_DUMPED
		return ended, 0, nil
	}
	return halted, int(info.status), nil
}

// reap takes note of a thread's end.
func reap(tid int) { _, _ = waitid(tid, unix.WEXITED) }

// detach lets a thread go on, with a signal if that is not 0.
func detach(tid int, signal syscall.Signal) error {
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, uintptr(signal), 0, 0)
	if e != 0 {
		return os.NewSyscallError("ptrace detach", e)
	}
	return nil
}

// yield lets others run, for nap if that is not 0.
func yield(nap time.Duration) {
	if nap == 0 {
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		return
	}
	ts := unix.NsecToTimespec(nap.Nanoseconds())
	_ = unix.Nanosleep(&ts, nil)
}

// roomForMark tells whether the kernel ignores the upper half of the number
// of a system call, by asking for our pid so. Since 5.14; older ones answer
// ENOSYS.
var roomForMark = sync.OnceValue(func() bool {
	number := uint64(unix.SYS_GETPID) | 1<<markShift
	pid, _, e := unix.RawSyscall(uintptr(number), 0, 0, 0)
	return e == 0 && int(pid) == os.Getpid()
})

// markShift is where in a register the half begins that is ours.
const markShift = 32
