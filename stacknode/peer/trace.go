package peer

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// A Tracer is a thread that wants something that pidfd_getfd(2) would ask
// for: PTRACE_MODE_ATTACH_REALCREDS over a process (ptrace(2), "Ptrace access
// mode checking"). It is plain data, which may be passed to another process
// of the daemon's user namespace, and tells what the thread was when it was
// looked at.
type Tracer struct {
	PID      int    // thread group
	UID, GID uint32 // real ids, in the daemon's user namespace
	EUID     uint32 // which owns the user namespaces that the thread makes

	UserNS               stacknode.NSID
	Permitted, Effective stacknode.CapSet // over UserNS
}

// TracerOf returns the tracer that caller is.
func TracerOf(caller *stacknode.Caller) (Tracer, error) {
	d, err := caller.Look()
	if err != nil {
		return Tracer{}, err
	}
	return Tracer{
		PID: caller.PID, UID: caller.RealUID, GID: caller.RealGID, EUID: d.UID,
		UserNS: d.UserNS, Permitted: d.Permitted, Effective: d.Caps,
	}, nil
}

// Self returns the tracer that the daemon itself is, for callers who were
// granted what they lack.
func Self() (Tracer, error) {
	p, err := Open(os.Getpid())
	if err != nil {
		return Tracer{}, err
	}
	defer p.Close()
	c, err := p.Caller()
	if err != nil {
		return Tracer{}, err
	}
	return TracerOf(c)
}

// All tells whether the tracer may trace every process: it has
// CAP_SYS_PTRACE over the daemon's own user namespace.
func (t Tracer) All() bool {
	own, err := ownUserNS()
	return err == nil && t.UserNS == own && t.Effective&stacknode.CapSysPtrace != 0
}

// May returns nil if the tracer may trace the thread tid, else a
// *stacknode.HolderError that says why not. Returns ESRCH if there is no such
// thread (any more).
//
// It is stricter than the kernel where that decides by what nobody can see
// from outside: a process that is not dumpable may be traced only with
// CAP_SYS_PTRACE over the daemon's user namespace.
func (t Tracer) May(tid int) error {
	p, err := Open(tid)
	if err == nil {
		defer p.Close()
		err = t.may(p)
	}
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("thread %d: %w", tid, unix.ESRCH) // its directory is gone
	}
	return err
}

func (t Tracer) may(p *Proc) error {
	st, err := p.Status()
	if err != nil {
		return err
	}
	if st.TGID == t.PID {
		return nil
	}
	target, err := t.look(p, st)
	if err != nil {
		return err
	}
	if why := t.refusal(target); why != "" {
		return &stacknode.HolderError{PID: st.TGID, Command: printable(st.Name), Reason: why}
	}
	return nil
}

// A traced thread is what the rule is about.
type traced struct {
	Status
	sameUserNS bool // as the tracer's
	ptrace     bool // the tracer has CAP_SYS_PTRACE over the thread's user namespace
	dumpable   bool
	scope      yamaScope
}

func (t Tracer) look(p *Proc, st Status) (traced, error) {
	target := traced{Status: st}
	user, err := p.NS("user")
	if err != nil {
		return target, fmt.Errorf("thread %d: %w", p.tid, err)
	}
	target.sameUserNS = user == t.UserNS
	ns, err := p.OpenNS("user")
	if err != nil {
		return target, fmt.Errorf("thread %d: %w", p.tid, err)
	}
	caps, err := capsOverUserNS(ns, nil, t.UserNS, t.EUID, t.Effective)
	if err != nil {
		return target, err
	}
	target.ptrace = caps&stacknode.CapSysPtrace != 0
	if target.dumpable, err = p.dumpable(st); err != nil {
		return target, err
	}
	target.scope, err = yama()
	return target, err
}

// refusal is the rule: __ptrace_may_access (kernel/ptrace.c), then
// cap_ptrace_access_check (security/commoncap.c), then Yama. It returns why
// not, empty if the tracer may.
func (t Tracer) refusal(p traced) string {
	sameUID := t.UID == p.RealUID && t.UID == p.UID && t.UID == p.SavedUID
	sameGID := t.GID == p.RealGID && t.GID == p.GID && t.GID == p.SavedGID
	switch {
	case p.scope >= yamaNobody:
		return "kernel.yama.ptrace_scope is 3: nobody may" + wayOut
	case !sameUID && !p.ptrace:
		return "it belongs to another user"
	case !sameGID && !p.ptrace:
		return "it belongs to another group"
	case !p.dumpable && !t.All():
		return "it is not dumpable: it changed its user or may hold secrets, see PR_SET_DUMPABLE in prctl(2)"
	case !p.sameUserNS && !p.ptrace:
		return "it is in another user namespace"
	case stacknode.CapSet(p.CapPrm)&^t.Permitted != 0 && !p.ptrace:
		return "it has capabilities that you have not"
	case p.scope >= yamaRelated && !p.ptrace:
		return fmt.Sprintf("kernel.yama.ptrace_scope is %d: only who has CAP_SYS_PTRACE may%s", p.scope, wayOut)
	}
	return ""
}

const wayOut = ` (allow = ["checkpoint"] in a grant of the stack's configuration lets you)`

// A yamaScope is the value of kernel.yama.ptrace_scope. See
// Documentation/admin-guide/LSM/Yama.rst.
type yamaScope int

const (
	yamaOff     yamaScope = 0
	yamaRelated yamaScope = 1 // descendants only, which nobody is that a daemon acts for
	yamaNobody  yamaScope = 3
)

// yama returns the scope now: it can be raised at any time.
func yama() (yamaScope, error) {
	b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if errors.Is(err, os.ErrNotExist) {
		return yamaOff, nil
	}
	if err != nil {
		return yamaOff, err
	}
	var n yamaScope
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		return yamaOff, fmt.Errorf("kernel.yama.ptrace_scope: %w", err)
	}
	return n, nil
}

// Holders returns nil if the tracer may trace every one of holders, else the
// *stacknode.HolderError of the first that it may not. Who has ended
// meanwhile holds nothing.
func (t Tracer) Holders(holders []Holder) error {
	for _, h := range holders {
		for _, tid := range []int{h.PID, h.TID} {
			if tid == 0 {
				continue
			}
			if err := t.May(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// ownUserNS is the user namespace of the daemon.
var ownUserNS = sync.OnceValues(func() (stacknode.NSID, error) {
	return statNSPath("/proc/self/ns/user")
})
