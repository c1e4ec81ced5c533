package conns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/stackfs/stackfs/backends/guardian"
	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/snapshot"
	"github.com/stackfs/stackfs/stacknode"
)

// A Mode says how connections are saved.
type Mode string

const (
	ModeAuto   Mode = "auto"   // BPF if that works here, else repair mode
	ModeBPF    Mode = "bpf"    // BPF or not at all
	ModeRepair Mode = "repair" // repair mode under the guardian
	ModeOff    Mode = "off"    // connections are not saved
)

// holdsPerUser is how many connections may be held for a user at a time. Each
// costs the daemon and the guardian descriptors.
const holdsPerUser = 256

// An Engine saves connections: by a BPF program that reads them while they go
// on, or in repair mode while the guardian holds their owners. Connections
// are held by the guardian in any case.
type Engine struct {
	mode  Mode
	log   *slog.Logger
	guard guard
	holds *stacknode.Quota
	locks locks // of sockets that are looked at or ended

	loading sync.Once   // sets the fields below
	snap    snapshotter // nil: there is none
	why     error       // that there is none
}

// A snapshotter is a *snapshot.Snapshotter.
type snapshotter interface {
	Take(ctx context.Context, ns snapshot.NetNS, cookies []uint64) ([]snapshot.Result, error)
	Close() error
}

// NewEngine returns an engine that saves connections as mode says. start
// starts the guardian, when that is needed.
func NewEngine(mode Mode, log *slog.Logger, start func() (*guardian.Client, error)) *Engine {
	e := &Engine{mode: mode, log: log, holds: stacknode.NewQuota(holdsPerUser)}
	e.guard.start = func() (Guardian, error) {
		c, err := start()
		if err != nil {
			return nil, err
		}
		return client{c}, nil
	}
	return e
}

// Start begins to load and test the BPF program, which takes a part of a
// second: who needs it sooner waits.
func (e *Engine) Start() { go e.load() }

// load returns when it is known how connections are saved.
func (e *Engine) load() {
	e.loading.Do(func() {
		if e.mode != ModeAuto && e.mode != ModeBPF {
			return
		}
		s, err := snapshot.New(e.log)
		if err == nil {
			e.snap = s
			return
		}
		if e.why = err; e.mode == ModeAuto {
			e.log.Warn("connections are saved in repair mode: BPF does not work here", "err", e.why)
		}
	})
}

// Check returns an error if connections cannot be saved as the mode wants it.
// In ModeBPF it waits for the BPF program.
func (e *Engine) Check() error {
	if e.mode != ModeBPF {
		return nil
	}
	if e.load(); e.why != nil {
		return fmt.Errorf("checkpoint = \"bpf\" in the configuration, and that does not work here (\"auto\" would take repair mode): %w", e.why)
	}
	return nil
}

// Describe says how connections are saved, for the files status.
func (e *Engine) Describe() string {
	e.load()
	switch {
	case e.off():
		return string(ModeOff)
	case e.snap != nil:
		return string(ModeBPF)
	case e.why != nil:
		return fmt.Sprintf("repair (bpf: %v)", e.why)
	}
	return string(ModeRepair)
}

// Close ends the guardian, which resumes what it holds, and unloads the BPF
// program.
func (e *Engine) Close() error {
	e.loading.Do(func() {}) // not any more
	err := e.guard.close()
	if e.snap != nil {
		err = errors.Join(err, e.snap.Close())
	}
	return err
}

func (e *Engine) off() bool { return e.mode == ModeOff }

// withoutFile tells whether a socket that no process has a descriptor of is
// saved like any other.
func (e *Engine) withoutFile() bool {
	e.load()
	return e.snap != nil || e.off()
}

// A target is a connection to be saved or held.
type target struct {
	guardian.Request
	netns snapshot.NetNS
}

// save returns the connection, which goes on.
func (e *Engine) save(ctx context.Context, t target) (*soccr.Conn, error) {
	if e.load(); e.snap == nil {
		return e.saveInRepairMode(ctx, t)
	}
	results, err := e.snap.Take(ctx, t.netns, []uint64{t.Cookie})
	if err != nil {
		return nil, err
	}
	err = results[0].Err
	if errors.Is(err, snapshot.ErrQueue) && e.mode == ModeAuto && t.Inode != 0 {
		e.log.Warn("a connection is saved in repair mode: BPF cannot read it", "cookie", t.Cookie, "err", err)
		return e.saveInRepairMode(ctx, t)
	}
	return results[0].Conn, err
}

func (e *Engine) saveInRepairMode(ctx context.Context, t target) (*soccr.Conn, error) {
	if t.Inode == 0 {
		return nil, &soccr.UnsaveableError{Reason: "no process has a descriptor of it, and repair mode needs one"}
	}
	client, err := e.guard.client()
	if err != nil {
		return nil, err
	}
	return client.Save(ctx, t.Request)
}

// holdPatience is how long it may take until a connection is held. An owner
// that is large, or busy, takes a part of a second; one that keeps the lock of
// the socket as long as he likes.
const holdPatience = 20 * time.Second

// hold freezes who holds the connection, until the Held is resumed.
func (e *Engine) hold(ctx context.Context, t target, limit time.Duration) (Held, error) {
	if t.Inode == 0 {
		return nil, &soccr.UnsaveableError{Reason: "no process has a descriptor of it, so there is nobody to hold"}
	}
	client, err := e.guard.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, holdPatience, errNotHeld)
	defer cancel()
	held, err := client.Hold(ctx, t.Request, limit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = context.Cause(ctx)
	}
	return held, err
}

func (e *Engine) guardianPID() int { return e.guard.pid() }
