package conns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/snapshot"
)

// A Mode says how connections are saved.
type Mode string

const (
	ModeAuto   Mode = "auto"   // BPF if that works here, else repair mode
	ModeBPF    Mode = "bpf"    // BPF or not at all
	ModeRepair Mode = "repair" // repair mode under the guardian
	ModeOff    Mode = "off"    // connections are not saved
)

// An Engine saves connections: by a BPF program that reads them while they go
// on, or in repair mode while the guardian holds their owners. Connections
// are held by the guardian in any case.
type Engine struct {
	mode  Mode
	log   *slog.Logger
	guard guard

	ready chan struct{} // closed when the fields below are set
	snap  *snapshot.Snapshotter
	why   error // that there is none
}

// StartEngine returns an engine, whose BPF program is being loaded and tested
// meanwhile. start starts the guardian; that is done at the first use.
func StartEngine(mode Mode, log *slog.Logger, start func() (Guardian, error)) *Engine {
	e := &Engine{mode: mode, log: log, guard: guard{start: start}, ready: make(chan struct{})}
	switch mode {
	case ModeAuto, ModeBPF:
		go e.load()
	case ModeRepair:
		e.why = errors.New("not wanted")
		close(e.ready)
	default:
		close(e.ready)
	}
	return e
}

func (e *Engine) load() {
	defer close(e.ready)
	start := time.Now()
	if e.snap, e.why = snapshot.New(e.log); e.why != nil {
		if e.mode == ModeAuto {
			e.log.Warn("connections are saved in repair mode: BPF does not work here", "err", e.why)
		}
		return
	}
	e.log.Debug("checkpoint engine ready", "took", time.Since(start))
}

// Wait returns when it is known how connections are saved. Returns an error
// if they cannot be as the mode wants it.
func (e *Engine) Wait() error {
	<-e.ready
	if e.mode == ModeBPF && e.why != nil {
		return fmt.Errorf("checkpoint = \"bpf\", but that does not work here (\"auto\" would take repair mode): %w", e.why)
	}
	return nil
}

// Describe says how connections are saved, for the files status.
func (e *Engine) Describe() string {
	if e.off() {
		return string(ModeOff)
	}
	<-e.ready
	switch {
	case e.snap != nil:
		return "bpf"
	case e.mode == ModeAuto:
		return fmt.Sprintf("repair (bpf: %v)", e.why)
	}
	return "repair"
}

// Close ends the guardian, which resumes what it holds.
func (e *Engine) Close() error {
	<-e.ready
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
	<-e.ready
	return e.snap != nil || e.off()
}

// A target is a connection to be saved or held.
type target struct {
	Request
	netns snapshot.NetNS
}

// save returns the connection, which goes on.
func (e *Engine) save(ctx context.Context, t target) (*soccr.Conn, error) {
	select {
	case <-e.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if e.snap == nil {
		return e.saveInRepairMode(ctx, t)
	}
	results, err := e.snap.Take(ctx, t.netns, []uint64{t.Cookie})
	if err != nil {
		return nil, err
	}
	return results[0].Conn, results[0].Err
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

// hold freezes who holds the connection, until the Held is resumed.
func (e *Engine) hold(ctx context.Context, t target, limit time.Duration) (Held, error) {
	if t.Inode == 0 {
		return nil, &soccr.UnsaveableError{Reason: "no process has a descriptor of it, so there is nobody to hold"}
	}
	client, err := e.guard.client()
	if err != nil {
		return nil, err
	}
	return client.Hold(ctx, t.Request, limit)
}

func (e *Engine) guardianPID() int { return e.guard.pid() }
