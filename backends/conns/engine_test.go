package conns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/guardian"
	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/snapshot"
)

// fakeSnapshotter fails with err, if that is set.
type fakeSnapshotter struct{ err error }

func (f fakeSnapshotter) Take(context.Context, snapshot.NetNS, []uint64) ([]snapshot.Result, error) {
	if f.err != nil {
		return []snapshot.Result{{Err: f.err}}, nil
	}
	return []snapshot.Result{{Conn: someConn("192.0.2.1:4001")}}, nil
}

func (fakeSnapshotter) Close() error { return nil }

func fakeEngine(mode Mode, snap snapshotter) (*Engine, *fakeGuardian) {
	g := &fakeGuardian{}
	e := NewEngine(mode, slog.New(slog.DiscardHandler), nil)
	e.guard.start = func() (Guardian, error) { return g, nil }
	e.loading.Do(func() { e.snap = snap })
	return e, g
}

// What BPF cannot read is for the guardian, if the configuration leaves the
// choice; what cannot be saved at all is not tried again.
func TestWhoSaves(t *testing.T) {
	t.Parallel()
	broken := fmt.Errorf("a gap: %w", snapshot.ErrQueue)
	unsaveable := &soccr.UnsaveableError{Reason: "kTLS"}
	for _, tt := range []struct {
		name     string
		mode     Mode
		snap     snapshotter
		inode    uint64
		err      error
		guardian bool
	}{
		{"bpf works", ModeAuto, fakeSnapshotter{}, 7, nil, false},
		{"bpf cannot read it", ModeAuto, fakeSnapshotter{broken}, 7, nil, true},
		{"bpf cannot read it, and nothing else is wanted", ModeBPF, fakeSnapshotter{broken}, 7, snapshot.ErrQueue, false},
		{"bpf cannot read it, and it has no file", ModeAuto, fakeSnapshotter{broken}, 0, snapshot.ErrQueue, false},
		{"not saveable", ModeAuto, fakeSnapshotter{unsaveable}, 7, unsaveable, false},
		{"no bpf", ModeAuto, nil, 7, nil, true},
		{"repair", ModeRepair, nil, 7, nil, true},
		{"repair, and it has no file", ModeRepair, nil, 0, unix.EOPNOTSUPP, false},
	} {
		e, g := fakeEngine(tt.mode, tt.snap)
		c, err := e.save(t.Context(), target{Request: guardian.Request{Cookie: 1, Inode: tt.inode}})
		if !errors.Is(err, tt.err) || (c == nil) != (tt.err != nil) {
			t.Errorf("%s: got %v, %v, want %v", tt.name, c, err, tt.err)
		}
		if asked := len(g.take()) > 0; asked != tt.guardian {
			t.Errorf("%s: the guardian was asked: %v, want %v", tt.name, asked, tt.guardian)
		}
	}
}

func TestEngineDescribesAndChecks(t *testing.T) {
	t.Parallel()
	why := errors.New("no BTF")
	for _, tt := range []struct {
		mode Mode
		snap snapshotter
		why  error
		want string
		ok   bool
	}{
		{ModeAuto, fakeSnapshotter{}, nil, "bpf", true},
		{ModeAuto, nil, why, "repair (bpf: no BTF)", true},
		{ModeBPF, nil, why, "repair (bpf: no BTF)", false},
		{ModeRepair, nil, nil, "repair", true},
		{ModeOff, nil, nil, "off", true},
	} {
		e, _ := fakeEngine(tt.mode, tt.snap)
		e.why = tt.why
		if got := e.Describe(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.mode, got, tt.want)
		}
		if err := e.Check(); (err == nil) != tt.ok || err != nil && !errors.Is(err, why) {
			t.Errorf("%s: got %v", tt.mode, err)
		}
	}
}

func TestEngineIsNotUsedAfterClose(t *testing.T) {
	t.Parallel()
	e, g := fakeEngine(ModeRepair, nil)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := e.save(t.Context(), target{Request: guardian.Request{Inode: 7}})
	if !errors.Is(err, unix.ENODEV) || len(g.take()) != 0 {
		t.Errorf("got %v, want ENODEV", err)
	}
	never := NewEngine(ModeAuto, slog.New(slog.DiscardHandler), nil)
	if err := never.Close(); err != nil { // without loading anything
		t.Error(err)
	}
	e, g = fakeEngine(ModeRepair, nil)
	if _, err := e.hold(t.Context(), target{Request: guardian.Request{Inode: 7}}, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Close(), e.Close()); err != nil {
		t.Error(err)
	}
	if calls := g.take(); len(calls) != 2 || calls[1] != "close" {
		t.Errorf("got %q, want one hold and one close", calls)
	}
}
