package freeze

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// patience is how long a process may take to stop, if the context allows as
// much. Its other threads stand still meanwhile.
const patience = 500 * time.Millisecond

// A Freezer freezes processes. Its methods are safe for concurrent use. One
// program needs one: a process can be frozen by one Freezer at a time, which
// counts how often.
type Freezer struct {
	refuse  func(pid int) error
	calls   calls
	workers workers

	mu    sync.Mutex // guards procs and users of its values
	procs map[int]*process
}

// A process is one that is frozen, or about to be.
type process struct {
	pid   int
	users int

	mu     sync.Mutex // guards the fields below; held while it is frozen and thawed
	frozen int        // how often
	tracer *tracer    // with frozen
	worker *worker    // with frozen
	late   bool       // a worker is stuck in the kernel with it
}

// New returns a Freezer. refuse is asked for an objection to freezing a
// process, announce is told of each thread that traces; both may be nil.
func New(refuse func(pid int) error, announce Announce) *Freezer {
	if refuse == nil {
		refuse = func(int) error { return nil }
	}
	return &Freezer{refuse: refuse, workers: workers{announce: announce}, procs: map[int]*process{}}
}

// Close ends the threads that the Freezer keeps for later. What is frozen
// stays so.
func (f *Freezer) Close() { f.workers.close() }

// Frozen is a process that stands still until Thaw.
type Frozen struct {
	freezer *Freezer
	process *process
	tracer  *tracer
	thaw    sync.Once
}

// Freeze stops all threads of a process. It needs CAP_SYS_PTRACE over the
// process, or to be its equal by ptrace(2). It never freezes process 1 or the
// calling process. A process that is a child of the calling one must not be
// waited for meanwhile: wait4(2) reports the stops of such.
//
// A process that is frozen already is shared; it goes on after the last Thaw.
//
// Returns a *TracedError if somebody else traces the process, a *StuckError if
// a thread does not stop within half a second, ErrGone if there is no such
// process, ErrArch if this machine cannot do it, EOPNOTSUPP for a program of
// 32 bits. With an error nothing is frozen.
func (f *Freezer) Freeze(ctx context.Context, pid int) (*Frozen, error) {
	if err := f.check(pid); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	p := f.use(pid)
	p.mu.Lock()
	defer f.leave(p)
	defer p.mu.Unlock()
	if p.frozen > 0 && p.tracer.gone() {
		// Another process may have the number by now.
		f.thaw(p)
		p.frozen = 0
	}
	if p.frozen == 0 {
		if err := f.freeze(ctx, p); err != nil {
			return nil, err
		}
	}
	p.frozen++
	f.use(pid)
	return &Frozen{freezer: f, process: p, tracer: p.tracer}, nil
}

func (f *Freezer) freeze(ctx context.Context, p *process) error {
	if p.late {
		return stuck(p.pid, p.pid)
	}
	w, err := f.workers.get()
	if err != nil {
		return err
	}
	t := &tracer{pid: p.pid, calls: &f.calls, threads: map[int]*thread{}}
	late, err := w.freeze(ctx, t, &f.workers)
	if late {
		f.wait(p, w)
	}
	if err == nil {
		p.tracer, p.worker = t, w
	}
	return err
}

func (f *Freezer) thaw(p *process) {
	p.worker.thaw(p.tracer, &f.workers)
	p.tracer, p.worker = nil, nil
}

// wait keeps others away from a process until a worker has ended.
func (f *Freezer) wait(p *process, w *worker) {
	p.late = true
	f.use(p.pid)
	go func() {
		defer f.leave(p)
		<-w.ended
		p.mu.Lock()
		defer p.mu.Unlock()
		p.late = false
	}()
}

func (f *Freezer) check(pid int) error {
	switch {
	case !supported():
		return ErrArch
	case pid == 1:
		return fmt.Errorf("process 1 is never frozen: %w", syscall.EPERM)
	case pid == os.Getpid():
		return fmt.Errorf("process %d is this one: %w", pid, syscall.EPERM)
	}
	st, err := readStat(pid, pid)
	if err != nil {
		return err
	}
	if st.kernel {
		return fmt.Errorf("process %d (%s) is a thread of the kernel: %w", pid, st.command, syscall.EPERM)
	}
	return f.refuse(pid)
}

// use returns the process, which the caller gives back with leave.
func (f *Freezer) use(pid int) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.procs[pid]
	if p == nil {
		p = &process{pid: pid}
		f.procs[pid] = p
	}
	p.users++
	return p
}

func (f *Freezer) leave(p *process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(f.procs, p.pid)
	}
}

// Thaw lets the process go on if nobody else holds it frozen. A second call
// does nothing.
func (z *Frozen) Thaw() { z.thaw.Do(z.release) }

func (z *Frozen) release() {
	p := z.process
	defer z.freezer.leave(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	if z.tracer != p.tracer {
		return // its process has ended and its number was given to another
	}
	if p.frozen--; p.frozen == 0 {
		z.freezer.thaw(p)
	}
}

// Gone tells whether the process was killed.
func (z *Frozen) Gone() bool { return z.tracer.gone() }
