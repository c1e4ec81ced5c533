package runs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// The kernel allows one listener in a chain of filters, so a run within a
// run has none of its own: its calls arrive on the outer one's. What tells
// its processes from the others is the mount namespace: every inner run has
// one of its own, and fork and exec keep it. A process that made a
// namespace for itself is told by the environment that its program was
// started with, where every run puts the path of its stack. Its parent would
// be no witness: that may be in the outer run, or have died.

// ticketsPerUser bounds what a user can have the daemon remember.
const ticketsPerUser = 64

// Ticket returns a number by which a process under a run joins s. Returns
// EAGAIN if its user has too many that were not handed in.
func (t *Table) Ticket(caller *stacknode.Caller, s *stacknode.Stack, families stacknode.FamilySet) (uint64, error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	used := 0
	maps.DeleteFunc(t.tickets, func(_ uint64, k ticket) bool {
		expired := now.After(k.expires)
		if !expired && k.uid == caller.RealUID {
			used++
		}
		return expired
	})
	if used >= ticketsPerUser {
		return 0, fmt.Errorf("too many tickets of this user: %w", unix.EAGAIN)
	}
	id := newID()
	t.tickets[id] = ticket{targetOf(s, families), caller.PID, caller.RealUID, now.Add(ticketLifetime)}
	return id, nil
}

// ticket puts the mount namespace of the process that hands in id on the
// stack that the ticket is for. Returns ESRCH for a ticket that is not good;
// the kernel itself would say EAFNOSUPPORT.
func (e *entry) ticket(tid int, id uint64) error {
	p, err := peer.Open(tid)
	if err != nil {
		return err
	}
	defer p.Close()
	st, err := p.Status()
	if err != nil {
		return err
	}
	mnt, err := p.MountNS()
	if err != nil {
		return err
	}
	e.t.mu.Lock()
	k, ok := e.t.tickets[id]
	delete(e.t.tickets, id)
	e.t.mu.Unlock()
	if !ok || k.pid != st.TGID || time.Now().After(k.expires) {
		return fmt.Errorf("no such ticket: %w", unix.ESRCH)
	}
	if err := e.nest(mnt, k.target); err != nil {
		return err
	}
	return e.save()
}

// maxNested bounds the record of a run, which goes to the keeper as one
// message.
const maxNested = 256

// forgetEnded drops the nested runs in whose mount namespace no process is
// left. It is called with e.mu held.
func (e *entry) forgetEnded() {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	alive := map[uint64]bool{}
	for _, p := range entries {
		tid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if mnt, err := mountNS(tid); err == nil {
			alive[mnt] = true
		}
	}
	maps.DeleteFunc(e.rec.Nested, func(mnt uint64, _ target) bool { return !alive[mnt] })
}

func (e *entry) nest(mnt uint64, tg target) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, taken := e.rec.Nested[mnt]; taken || mnt == e.rec.MountNS {
		return fmt.Errorf("a run within a run needs a mount namespace of its own: %w", unix.EPERM)
	}
	if e.rec.Nested == nil {
		e.rec.Nested = map[uint64]target{}
	}
	if len(e.rec.Nested) >= maxNested {
		e.forgetEnded()
	}
	if len(e.rec.Nested) >= maxNested {
		return fmt.Errorf("%d programs are nested in one already: %w", maxNested, unix.EMFILE)
	}
	e.rec.Nested[mnt] = tg
	e.nested.Store(true)
	return nil
}

// route returns the stack that the thread tid is on and the families that
// go there. Returns stacknode.ErrClosed when that stack is gone, and also
// when it cannot be told: never another stack.
func (e *entry) route(tid int) (*stacknode.Stack, stacknode.FamilySet, error) {
	p, err := peer.Open(tid)
	if err != nil {
		return nil, 0, err
	}
	defer p.Close()
	mnt, err := p.MountNS()
	if err != nil {
		return nil, 0, err
	}
	tg, ok := e.known(mnt)
	if !ok {
		value, err := p.Getenv(uapi.EnvRun)
		if err != nil {
			return nil, 0, err
		}
		if tg, ok = e.named(filepath.Base(value)); !ok {
			return nil, 0, fmt.Errorf("cannot tell which stack the process is on: %w", stacknode.ErrClosed)
		}
	}
	s, err := e.t.find(tg)
	return s, tg.Families, err
}

// named returns the only target of that name, among the run's own and those
// nested in it.
func (e *entry) named(stack string) (found target, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	found, ok = e.rec.target, e.rec.Stack == stack
	for _, tg := range e.rec.Nested {
		switch {
		case tg.Stack != stack:
		case !ok:
			found, ok = tg, true
		case tg != found:
			return target{}, false // by other families, or another namespace
		}
	}
	return found, ok
}

func (e *entry) known(mnt uint64) (target, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if mnt == e.rec.MountNS {
		return e.rec.target, true
	}
	tg, ok := e.rec.Nested[mnt]
	return tg, ok
}
