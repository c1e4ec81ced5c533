package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// maxSlow is how many calls of one run are answered at a time on threads
// other than the loop's.
const maxSlow = 8

// A runItem is a run on the loop.
type runItem struct {
	l    *loop
	run  *stacknode.Run
	fd   int
	slow atomic.Int32
}

// addRun makes l, which is new, the loop of run and of nothing else: giving
// a caller its socket waits until that caller runs, which may be a while if
// its share of the CPU is used up.
func (l *loop) addRun(run *stacknode.Run) error {
	it := &runItem{run: run, l: l}
	if err := control(run.Listener, func(fd int) { it.fd = fd }); err != nil {
		return err
	}
	notifSync(it.fd)
	return l.add(it.fd, it)
}

func (r *runItem) user() uint32 { return r.run.UID }

func (r *runItem) end(hup bool) {
	r.l.w.runEnded(r.l)
	r.run.Ended(hup)
}

// ready takes one call. The notification is received right into a slot that
// the keeper sees, and the slot is cleared only after the answer.
func (r *runItem) ready(l *loop, events uint32) bool {
	if events&unix.EPOLLIN == 0 {
		return events&(unix.EPOLLHUP|unix.EPOLLERR) == 0
	}
	s := l.slot
	s.Run.Store(r.run.ID)
	if e := notifRecv(r.fd, &s.Notif); e != 0 {
		s.Clear()
		return e == unix.ENOENT || e == unix.EINTR // the caller died
	}
	if r.quick(l, &s.Notif) {
		s.Clear()
		return true
	}
	slot := l.w.cfg.Slots.Take()
	if slot == nil {
		r.answer(&s.Notif, unix.EAGAIN)
		s.Clear()
		return true
	}
	slot.Notif = s.Notif
	slot.Run.Store(r.run.ID)
	s.Clear()
	if r.slow.Add(1) >= maxSlow {
		l.mask(r.fd, 0)
	}
	go r.slowly(slot)
	return true
}

// quick answers the calls that the loop's thread can: plain sockets of this
// stack, and those that the caller may make itself.
func (r *runItem) quick(l *loop, n *Notif) bool {
	domain, typ, proto := int(int32(n.Args[0])), int(int32(n.Args[1])), int(int32(n.Args[2]))
	if isSocketcall(n) || r.run.Nested() || !r.run.Families.Has(domain) || l.w.lacks(domain, proto) != nil {
		return false
	}
	if l.w.cfg.OnlySelf {
		if l.w.refuses() || !l.watched.inNetNS(int(n.PID), l.w.id) {
			return false
		}
		if !l.watched.makes(int(n.PID), l.w.cfg.Makes, domain, typ, proto) {
			notifSend(r.fd, n.ID, 0, 0, notifContinue)
			return true
		}
	}
	if !plain(domain, typ, proto) {
		return false
	}
	uid, gid, e := l.watched.credentials(int(n.PID))
	if e != 0 {
		return false // an older kernel: ask /proc
	}
	fd, e := l.plainSocket(uid, gid, domain, typ, proto)
	if e != 0 {
		r.answer(n, e)
		return true
	}
	r.install(n, fd, typ)
	return true
}

// install puts the socket fd into the caller, as the result of its call,
// and closes it here.
//
// There is a way to do it in one step, SECCOMP_ADDFD_FLAG_SEND, and it must
// not be used: when the process that answers is killed, or gets a signal,
// while the caller has not yet been scheduled, the kernel takes the
// descriptor back but not the answer, and the caller's socket(2) returns 0
// (kernel/seccomp.c, seccomp_notify_addfd; seen on 6.18). In two steps the
// worst is that a killed daemon leaves a socket of the stack open in the
// caller, whose call fails with ENODEV.
func (r *runItem) install(n *Notif, fd, typ int) {
	flags := 0
	if typ&unix.SOCK_CLOEXEC != 0 {
		flags = unix.O_CLOEXEC
	}
	number, e := notifAddFD(r.fd, n.ID, fd, flags)
	fastClose(fd)
	if e != 0 {
		r.answer(n, e) // EMFILE: the caller's own limit
		return
	}
	notifSend(r.fd, n.ID, number, 0, 0)
}

func (r *runItem) answer(n *Notif, e syscall.Errno) {
	notifSend(r.fd, n.ID, 0, e, 0)
}

// slowly answers a call that needs to look at the caller, on a goroutine of
// its own.
func (r *runItem) slowly(s *Slot) {
	n := &s.Notif
	fd, typ, err := r.decide(n)
	switch {
	case errors.Is(err, errContinue):
		notifSend(r.fd, n.ID, 0, 0, notifContinue)
	case errors.Is(err, errNothing):
		notifSend(r.fd, n.ID, 0, 0, 0)
	case err != nil:
		r.answer(n, Errno(err))
	default:
		r.install(n, fd, typ)
	}
	r.l.w.cfg.Slots.Put(s)
	if r.slow.Add(-1) == maxSlow-1 {
		r.l.mask(r.fd, unix.EPOLLIN)
	}
}

var (
	errContinue = errors.New("the caller makes the socket itself")
	errNothing  = errors.New("the call returns 0")
)

// decide makes the socket that a call is to return. The call may go on in
// the kernel (errContinue) only if its arguments were in registers: what is
// in memory can be changed by another thread of the caller.
func (r *runItem) decide(n *Notif) (fd, typ int, err error) {
	tid := int(n.PID)
	p, err := peer.Open(tid)
	if err != nil {
		return -1, 0, err
	}
	defer p.Close()
	// The thread may have died between, and its number be another's: then
	// nothing that is found out here reaches anybody.
	if e := notifIDValid(r.fd, n.ID); e != 0 {
		return -1, 0, e
	}
	args := [3]int{int(int32(n.Args[0])), int(int32(n.Args[1])), int(int32(n.Args[2]))}
	inRegisters := !isSocketcall(n)
	if !inRegisters {
		if args, err = readSocketcall(p, n.Args[1]); err != nil {
			return -1, 0, err
		}
	}
	domain, typ, proto := args[0], args[1], args[2]
	if domain == uapi.RunDomain && inRegisters {
		if err := r.run.Ticket(tid, uint64(uint32(typ))|uint64(uint32(proto))<<32); err != nil {
			return -1, 0, err
		}
		return -1, 0, errNothing
	}
	caller, err := p.Caller()
	if err != nil {
		return -1, 0, err
	}
	own := func() (int, int, error) {
		if inRegisters {
			return -1, 0, errContinue
		}
		fd, err := local(caller, domain, typ, proto)
		return fd, typ, err
	}
	if domain == unix.AF_UNIX {
		return own()
	}
	if r.run.Nested() {
		return r.nested(caller, domain, typ, proto, own)
	}
	if !r.run.Families.Has(domain) {
		return own()
	}
	if w := r.l.w; w.cfg.OnlySelf {
		if caller.NetNS() != w.id {
			return -1, 0, stacknode.ErrForeign
		}
		if w.refuses() {
			return -1, 0, stacknode.ErrClosed
		}
		if err := w.lacks(domain, proto); err != nil {
			return -1, 0, err
		}
		if w.cfg.Makes == nil || !w.cfg.Makes(caller.TID, domain, typ, proto) {
			return own()
		}
	}
	fd, err = r.l.w.socket(caller, domain, typ, proto)
	return fd, typ, err
}

// nested answers a call where the caller may be under an inner run, on
// another stack than the listener's.
func (r *runItem) nested(caller *stacknode.Caller, domain, typ, proto int, own func() (int, int, error)) (int, int, error) {
	stack, families, err := r.run.Route(caller.TID)
	if err != nil {
		return -1, 0, err
	}
	if !families.Has(domain) {
		return own()
	}
	if err := stack.Admit(caller); err != nil {
		return -1, 0, err
	}
	if err := stack.Refuses(domain, typ, proto); err != nil {
		return -1, 0, err
	}
	if stack.Lets(caller, domain, typ, proto) {
		return own()
	}
	f, err := stack.Socket(context.Background(), caller, domain, typ, proto)
	if err != nil {
		return -1, 0, err
	}
	defer f.Close()
	fd := -1
	cerr := control(f, func(n int) { fd, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0) })
	return fd, typ, errors.Join(err, cerr)
}

// local makes a socket in the caller's own namespace, with no capability.
func local(caller *stacknode.Caller, domain, typ, proto int) (fd int, err error) {
	d, err := caller.Look()
	if err != nil {
		return -1, err
	}
	ns, err := d.OpenNetNS()
	if err != nil {
		return -1, err
	}
	defer ns.Close()
	fd = -1
	err = onThread(ns, &d.Identity, 0, func() error {
		fd, err = rawSocket(domain, typ|unix.SOCK_CLOEXEC, proto)
		return err
	})
	return fd, err
}

// Errno returns the errno that err means to a caller of socket(2).
func Errno(err error) syscall.Errno {
	var e syscall.Errno
	if errors.As(err, &e) && e != 0 {
		return e
	}
	return unix.EIO
}
