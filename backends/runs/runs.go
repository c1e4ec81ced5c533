// Package runs keeps account of the process trees that are on a stack
// (stackfs run): which stack serves each listener, which stack a process is
// on where runs are nested, and what the next daemon needs to go on.
package runs

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/keeper"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

const (
	runsPerUser    = 256
	maxRuns        = 4096 // each has a thread
	ticketLifetime = 10 * time.Second
)

// A Table holds the runs of one mount.
type Table struct {
	reg    *stacknode.Registry
	keeper *keeper.Client
	gone   *worker.Worker // answers for stacks that are gone
	log    *slog.Logger
	quota  *stacknode.Quota

	mu      sync.Mutex // guards the fields below; taken before entry.mu
	closed  bool
	runs    map[uint64]*entry
	tickets map[uint64]ticket
}

// A target is a stack as a run refers to it: by name, but only as long as
// it is the same namespace.
type target struct {
	Stack    string
	NetNS    stacknode.NSID
	Families stacknode.FamilySet
}

// A record is what a daemon leaves to the next one about a run.
type record struct {
	target
	UID     uint32
	MountNS uint64            // of who started it; nested runs have others
	Nested  map[uint64]target `json:",omitempty"` // by mount namespace
}

type entry struct {
	t       *Table
	run     *stacknode.Run
	release func()
	nested  atomic.Bool

	mu  sync.Mutex // guards rec
	rec record
}

type ticket struct {
	target
	pid     int
	uid     uint32 // who it counts for
	expires time.Time
}

// New returns an empty table. gone is a Worker that refuses everything.
func New(reg *stacknode.Registry, k *keeper.Client, gone *worker.Worker, log *slog.Logger) *Table {
	return &Table{
		reg: reg, keeper: k, gone: gone, log: log, quota: stacknode.NewQuota(runsPerUser),
		runs: map[uint64]*entry{}, tickets: map[uint64]ticket{},
	}
}

func targetOf(s *stacknode.Stack, families stacknode.FamilySet) target {
	id, _, _ := s.NetNS()
	return target{Stack: s.Name(), NetNS: id, Families: families}
}

// find returns the stack that tg means. Returns stacknode.ErrClosed if it
// is gone, or is another one by the same name.
func (t *Table) find(tg target) (*stacknode.Stack, error) {
	s, err := t.reg.Get(tg.Stack)
	if err != nil {
		return nil, stacknode.ErrClosed
	}
	if id, _, _ := s.NetNS(); id != tg.NetNS {
		return nil, stacknode.ErrClosed
	}
	return s, nil
}

// Start takes over listener for a process tree on s that caller starts.
// The table owns listener, also when Start fails. Returns EINVAL if it is
// no seccomp listener, EMFILE if the caller's user has too many.
func (t *Table) Start(caller *stacknode.Caller, s *stacknode.Stack, listener *os.File, families stacknode.FamilySet) error {
	if !worker.IsListener(listener) {
		listener.Close()
		return fmt.Errorf("the descriptor is no seccomp listener: %w", unix.EINVAL)
	}
	mnt, err := mountNS(caller.TID)
	if err != nil {
		listener.Close()
		return err
	}
	e := t.entry(newID(), listener, record{target: targetOf(s, families), UID: caller.UID, MountNS: mnt})
	if e.release, err = t.quota.Acquire(caller.RealUID); err != nil {
		listener.Close()
		return err
	}
	if err := t.serve(e, s); err != nil {
		e.release()
		listener.Close()
		return err
	}
	return nil
}

func (t *Table) entry(id uint64, listener *os.File, rec record) *entry {
	e := &entry{t: t, rec: rec, release: func() {}}
	e.nested.Store(len(rec.Nested) > 0)
	e.run = &stacknode.Run{
		ID: id, Listener: listener, Families: rec.Families, UID: rec.UID,
		Nested: e.nested.Load, Route: e.route, Ticket: e.ticket, Ended: e.ended,
	}
	return e
}

// serve makes the keeper hold the listener and s answer it.
func (t *Table) serve(e *entry, s *stacknode.Stack) error {
	server, ok := s.Backend().(stacknode.RunServer)
	if !ok {
		return fmt.Errorf("stack %s takes no runs: %w", s.Name(), errors.ErrUnsupported)
	}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return stacknode.ErrClosed
	}
	if len(t.runs) >= maxRuns {
		t.mu.Unlock()
		return fmt.Errorf("%d programs are on stacks already: %w", maxRuns, unix.EMFILE)
	}
	t.runs[e.run.ID] = e
	t.mu.Unlock()
	err := e.save()
	if err == nil {
		err = server.ServeRun(e.run)
	}
	if err != nil {
		t.forget(e)
	}
	return err
}

func (t *Table) forget(e *entry) {
	t.mu.Lock()
	delete(t.runs, e.run.ID)
	t.mu.Unlock()
	if err := t.keeper.Delete(e.run.ID); err != nil {
		t.log.Warn("keeper", "err", err)
	}
}

func (e *entry) save() error {
	e.mu.Lock()
	data, err := json.Marshal(e.rec)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	return e.t.keeper.Add(e.run.ID, data, e.run.Listener)
}

// ended lets go of a run whose processes are gone. One whose stack is gone
// gets errors from then on.
func (e *entry) ended(hup bool) {
	if !hup {
		e.t.mu.Lock()
		closed := e.t.closed
		e.t.mu.Unlock()
		if closed {
			return // the keeper answers
		}
		if err := e.t.gone.ServeRun(e.run); err == nil {
			return
		}
	}
	e.t.forget(e)
	e.release()
	e.run.Listener.Close()
}

// Adopt goes on with a run that an earlier daemon served.
func (t *Table) Adopt(h keeper.Heir) error {
	var rec record
	if err := json.Unmarshal(h.Data, &rec); err != nil {
		h.Listener.Close()
		return fmt.Errorf("record of a run: %w", err)
	}
	e := t.entry(h.ID, h.Listener, rec)
	if release, err := t.quota.Acquire(rec.UID); err == nil {
		e.release = release
	}
	s, err := t.find(rec.target)
	if err == nil {
		return t.serve(e, s)
	}
	t.mu.Lock()
	t.runs[e.run.ID] = e
	t.mu.Unlock()
	if err := e.save(); err != nil {
		return err
	}
	t.log.Warn("the stack of a run is gone", "stack", rec.Stack)
	return t.gone.ServeRun(e.run)
}

// Close stops the table: runs whose stack closes are left to the keeper.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

func mountNS(tid int) (uint64, error) {
	p, err := peer.Open(tid)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	return p.MountNS()
}

func newID() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails, crypto/rand
		if id := binary.NativeEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}
