package freeze

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supported tells whether the registers of this machine are known, and the
// kernel leaves room for the mark.
func supported() bool { return roomForMark() }

// erestartNoHand is ERESTARTNOHAND of the kernel's <linux/errno.h>: the call
// is to be restarted if no handler runs, else it returns EINTR. No program
// ever sees it.
const erestartNoHand = 514

// codeSegment64 is the selector of a program of 64 bits, __USER_CS.
const codeSegment64 = 0x33

// result returns what a register holds if a call is to return -errno.
func result(errno int) uint64 { return uint64(int64(-errno)) }

// A rule says how a call that returned EINTR is given back.
type rule struct {
	// socket tells that the rule is for descriptors of sockets only: other
	// drivers may return EINTR after they did something.
	socket bool
	// timeout returns how long the call may last; ok is false if that is
	// not bounded. nil: it never is.
	timeout func(th *thread, regs *unix.PtraceRegs) (d time.Duration, ok bool)
	// shorten writes what is left of the timeout into regs; nil: that is
	// not possible.
	shorten func(regs *unix.PtraceRegs, left time.Duration)
	// expired is what the call returns when its time is over, where it
	// cannot be shortened.
	expired uint64
}

// rules are for the calls that signal(7) lists as never restarted after a
// handler and that do return EINTR; nanosleep, poll, select, msgrcv,
// sigsuspend and others of that list return one of the kernel's own restart
// errors. None of these has had an effect when it returns EINTR. Not here:
// close, which closes all the same.
var rules = map[int32]rule{
	unix.SYS_EPOLL_WAIT:      {timeout: epollTimeout, shorten: shortenEpoll},
	unix.SYS_EPOLL_PWAIT:     {timeout: epollTimeout, shorten: shortenEpoll},
	unix.SYS_EPOLL_PWAIT2:    {timeout: fourth},
	unix.SYS_SEMOP:           {},
	unix.SYS_SEMTIMEDOP:      {timeout: fourth, expired: result(int(unix.EAGAIN))},
	unix.SYS_RT_SIGTIMEDWAIT: {timeout: third, expired: result(int(unix.EAGAIN))},
	unix.SYS_IO_GETEVENTS:    {timeout: fifth},
	unix.SYS_IO_URING_ENTER:  {timeout: uringTimeout, expired: result(int(unix.ETIME))},

	// With SO_RCVTIMEO or SO_SNDTIMEO; without they are restarted.
	unix.SYS_READ:     {socket: true, timeout: receiveTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_READV:    {socket: true, timeout: receiveTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_RECVFROM: {socket: true, timeout: receiveTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_RECVMSG:  {socket: true, timeout: receiveTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_RECVMMSG: {socket: true, timeout: receiveTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_ACCEPT:   {socket: true, timeout: receiveTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_ACCEPT4:  {socket: true, timeout: receiveTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_WRITE:    {socket: true, timeout: sendTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_WRITEV:   {socket: true, timeout: sendTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_SENDTO:   {socket: true, timeout: sendTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_SENDMSG:  {socket: true, timeout: sendTimeout, expired: result(int(unix.EAGAIN))},
	unix.SYS_SENDMMSG: {socket: true, timeout: sendTimeout, expired: result(int(unix.EAGAIN))},
	// At the end of its time it fails by the family, so it begins anew.
	unix.SYS_CONNECT: {socket: true},
}

// A call is one with a timeout that was given back.
type call struct {
	rule rule
	regs unix.PtraceRegs
	end  time.Time // when its time is over
}

// giveBack makes the stopped thread restart its call, if that was interrupted
// and the kernel would not. Returns EOPNOTSUPP for a program of 32 bits.
func (th *thread) giveBack(c *calls) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(th.tid, &regs); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil // killed
		}
		return th.wrap("registers of", err)
	}
	if regs.Cs != codeSegment64 {
		return fmt.Errorf("process %d (%s) is a program of 32 bits: %w", th.pid, commandOf(th.pid), syscall.EOPNOTSUPP)
	}
	number, mark := int32(regs.Orig_rax), uint32(regs.Orig_rax>>markShift)
	if number < 0 || regs.Rax != result(int(unix.EINTR)) {
		return nil
	}
	// What stopped it has interrupted its call, and not we.
	if th.jobStop || th.signal == unix.SIGSTOP {
		return nil
	}
	r, ok := rules[number]
	if !ok || !th.bySyscall(&regs) || r.socket && !th.isSocket(regs.Rdi) {
		return nil
	}
	regs.Rax = result(erestartNoHand)
	if r.timeout != nil {
		if d, ok := r.timeout(th, &regs); ok {
			th.call = &call{rule: r, regs: regs, end: th.deadline(c, mark, d)}
			return th.call.apply(th.tid, c)
		}
	}
	return setRegs(th.tid, &regs)
}

// deadline returns when the time of the interrupted call is over.
func (th *thread) deadline(c *calls, mark uint32, timeout time.Duration) time.Time {
	if end, ok := c.deadline(th.tid, mark); ok {
		return end
	}
	now := time.Now()
	if th.sleep.same(th.pid, th.tid) {
		// Nothing sleeps beyond its timeout, and no sleep begins in the
		// future: such a time comes from a clock that was read wrong.
		if slept := now.Sub(th.sleep.since); slept > 0 && slept < timeout+clockSlack {
			return now.Add(timeout - slept)
		}
	}
	return now.Add(timeout)
}

// clockSlack is how far the clocks of two CPUs may be apart, and how much
// later than its timeout a thread may wake.
const clockSlack = 50 * time.Millisecond

// apply sets the registers: the call is restarted with what is left of its
// time. When that is over, a call that cannot be shortened ends.
func (c *call) apply(tid int, all *calls) error {
	regs, left := c.regs, time.Until(c.end)
	regs.Orig_rax = uint64(uint32(regs.Orig_rax)) | uint64(all.remember(tid, c.end))<<markShift
	switch {
	case c.rule.shorten != nil:
		c.rule.shorten(&regs, max(0, left))
	case left <= 0:
		regs.Rax = c.rule.expired
	}
	return setRegs(tid, &regs)
}

func setRegs(tid int, regs *unix.PtraceRegs) error {
	err := unix.PtraceSetRegs(tid, regs)
	if errors.Is(err, unix.ESRCH) {
		return nil // killed
	}
	return os.NewSyscallError("ptrace setregs", err)
}

// bySyscall tells whether the thread is in a call by the instruction syscall,
// and not by int 0x80, which has other numbers.
func (th *thread) bySyscall(regs *unix.PtraceRegs) bool {
	var code [2]byte
	_, err := unix.PtracePeekText(th.tid, uintptr(regs.Rip-2), code[:])
	return err == nil && code == [2]byte{0x0f, 0x05}
}

func (th *thread) isSocket(fd uint64) bool {
	name, err := os.Readlink(taskFile(th.pid, th.tid, "fd/"+strconv.Itoa(int(int32(fd)))))
	return err == nil && strings.HasPrefix(name, "socket:[")
}

func epollTimeout(_ *thread, regs *unix.PtraceRegs) (time.Duration, bool) {
	ms := int32(regs.R10)
	return time.Duration(ms) * time.Millisecond, ms >= 0
}

func shortenEpoll(regs *unix.PtraceRegs, left time.Duration) {
	regs.R10 = uint64((left + time.Millisecond - 1) / time.Millisecond)
}

// third, fourth and fifth are for calls whose argument of that number points
// to a timeout.

func third(th *thread, regs *unix.PtraceRegs) (time.Duration, bool) { return th.timespec(regs.Rdx) }

func fourth(th *thread, regs *unix.PtraceRegs) (time.Duration, bool) { return th.timespec(regs.R10) }

func fifth(th *thread, regs *unix.PtraceRegs) (time.Duration, bool) { return th.timespec(regs.R8) }

// timespec reads a struct timespec of the thread's.
func (th *thread) timespec(addr uint64) (time.Duration, bool) {
	var b [16]byte
	if addr == 0 || !th.memory(addr, b[:]) {
		return 0, false
	}
	sec, nsec := int64(binary.LittleEndian.Uint64(b[:])), int64(binary.LittleEndian.Uint64(b[8:]))
	if sec < 0 || sec > int64(maxTimeout/time.Second) || nsec < 0 || nsec >= int64(time.Second) {
		return 0, false
	}
	return time.Duration(sec)*time.Second + time.Duration(nsec), true
}

// maxTimeout is how long a timeout is watched; a longer one is as none.
const maxTimeout = 366 * 24 * time.Hour

func (th *thread) memory(addr uint64, b []byte) bool {
	n, err := unix.PtracePeekData(th.tid, uintptr(addr), b)
	return err == nil && n == len(b)
}

// Flags of io_uring_enter(2) that say what its fifth argument is.
const (
	enterExtArg   = 1 << 3 // IORING_ENTER_EXT_ARG: a struct io_uring_getevents_arg
	enterAbsTimer = 1 << 5 // IORING_ENTER_ABS_TIMER: the timeout in it is a point in time
	enterArgReg   = 1 << 6 // IORING_ENTER_EXT_ARG_REG: an offset
)

func uringTimeout(th *thread, regs *unix.PtraceRegs) (time.Duration, bool) {
	const timespecAt, size = 16, 24 // in struct io_uring_getevents_arg
	if regs.R10&(enterExtArg|enterAbsTimer|enterArgReg) != enterExtArg || regs.R9 != size {
		return 0, false
	}
	var pointer [8]byte
	if !th.memory(regs.R8+timespecAt, pointer[:]) {
		return 0, false
	}
	return th.timespec(binary.LittleEndian.Uint64(pointer[:]))
}

func receiveTimeout(th *thread, regs *unix.PtraceRegs) (time.Duration, bool) {
	return th.socketTimeout(regs.Rdi, unix.SO_RCVTIMEO)
}

func sendTimeout(th *thread, regs *unix.PtraceRegs) (time.Duration, bool) {
	return th.socketTimeout(regs.Rdi, unix.SO_SNDTIMEO)
}

// socketTimeout reads a timeout of a socket by a duplicate of the descriptor.
func (th *thread) socketTimeout(fd uint64, option int) (time.Duration, bool) {
	pidfd, err := unix.PidfdOpen(th.pid, 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(pidfd)
	dup, err := unix.PidfdGetfd(pidfd, int(int32(fd)), 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(dup)
	// A thread with a file table of its own has another descriptor of that
	// number.
	theirs, err := os.Readlink(taskFile(th.pid, th.tid, "fd/"+strconv.Itoa(int(int32(fd)))))
	if err != nil {
		return 0, false
	}
	ours, err := os.Readlink("/proc/thread-self/fd/" + strconv.Itoa(dup))
	if err != nil || ours != theirs {
		return 0, false
	}
	tv, err := unix.GetsockoptTimeval(dup, unix.SOL_SOCKET, option)
	if err != nil {
		return 0, false
	}
	d := time.Duration(tv.Nano())
	return d, d > 0
}

// waitsWithTimeout tells whether a thread sleeps in a call whose timeout can
// be shortened.
func waitsWithTimeout(pid, tid int) bool {
	b, err := os.ReadFile(taskFile(pid, tid, "syscall"))
	if err != nil {
		return false
	}
	// The number, six arguments, sp and pc; or "running", or "-1" and two.
	fields := strings.Fields(string(b))
	if len(fields) != 9 {
		return false
	}
	number, err := strconv.Atoi(fields[0])
	if err != nil || rules[int32(number)].shorten == nil {
		return false
	}
	fourth, err := strconv.ParseUint(fields[4], 0, 64)
	return err == nil && int32(fourth) > 0
}
