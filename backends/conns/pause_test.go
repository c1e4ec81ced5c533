package conns

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/guardian"
	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode"
)

// fakeGuardian holds nothing and remembers what it was asked for.
type fakeGuardian struct {
	mu    sync.Mutex
	calls []string
	last  guardian.Request
	held  *fakeHeld
	fail  error
	wait  chan bool // if set, Hold waits for it
}

func (g *fakeGuardian) note(call string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, call)
}

func (g *fakeGuardian) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := g.calls
	g.calls = nil
	return calls
}

func (g *fakeGuardian) Save(_ context.Context, r guardian.Request) (*soccr.Conn, error) {
	g.note("save")
	g.last = r
	return someConn("192.0.2.1:4001"), g.fail
}

func (g *fakeGuardian) Hold(_ context.Context, r guardian.Request, limit time.Duration) (Held, error) {
	g.note("hold")
	g.last = r
	if g.wait != nil {
		<-g.wait
	}
	if g.fail != nil {
		return nil, g.fail
	}
	g.held = &fakeHeld{g: g, limit: limit, done: make(chan struct{})}
	return g.held, nil
}

func (g *fakeGuardian) PID() int     { return 1 << 22 }
func (g *fakeGuardian) Close() error { g.note("close"); return nil }

type fakeHeld struct {
	g     *fakeGuardian
	limit time.Duration
	done  chan struct{}
}

func (h *fakeHeld) Save(context.Context) (*soccr.Conn, error) {
	h.g.note("save held")
	c := someConn("192.0.2.1:4001")
	c.Meta.Live = true
	return c, nil
}

func (h *fakeHeld) Resume() error         { h.g.note("resume"); close(h.done); return nil }
func (h *fakeHeld) Discard() error        { h.g.note("discard"); close(h.done); return nil }
func (h *fakeHeld) Done() <-chan struct{} { return h.done }

// guardedStack is a stack whose connections are saved in repair mode.
func guardedStack(t *testing.T) (*Stack, *fakeGuardian, uint64) {
	t.Helper()
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeRepair)
	g := &fakeGuardian{}
	s.env.Engine.guard.start = func() (Guardian, error) { g.note("start"); return g, nil }
	p := connect(t, w, "192.0.2.1:4001")
	return s, g, cookieOf(t, p.client)
}

func wantCalls(t *testing.T, g *fakeGuardian, want ...string) {
	t.Helper()
	got := g.take()
	if len(got) != len(want) {
		t.Fatalf("the guardian was asked for %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("the guardian was asked for %q, want %q", got, want)
		}
	}
}

func TestRepairModeIsTheGuardiansWork(t *testing.T) {
	s, g, cookie := guardedStack(t)
	ctx := testContext(t)
	b, err := s.Checkpoint(ctx, self(t), cookie)
	if err != nil {
		t.Fatal(err)
	}
	wantCalls(t, g, "start", "save")
	if sock := find(t, s, cookie); g.last.Cookie != cookie || g.last.Inode != uint64(sock.inode) || !g.last.Tracer.All() {
		t.Errorf("asked for %+v", g.last)
	}
	if img, err := image.Decode(b); err != nil || !img.Conn.Meta.Live || img.Conn.Meta.Cookie != cookie {
		t.Errorf("got %v, %v", img, err)
	}
	g.fail = unix.EBUSY
	if _, err := s.Checkpoint(ctx, self(t), cookie); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want the guardian's EBUSY", err)
	}
	if got := s.env.Engine.Describe(); got != "repair" {
		t.Errorf("got %q", got)
	}
	connectOnly(t, s.cfg.Worker, "192.0.2.1:4001")
	list, err := s.Conns(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if c.Inode == 0 && c.State == "established" {
			var why *soccr.UnsaveableError
			if _, err := s.Checkpoint(ctx, self(t), c.Cookie); !errors.As(err, &why) {
				t.Errorf("a connection that nobody accepted: got %v", err)
			}
		}
	}
}

func TestPause(t *testing.T) {
	s, g, cookie := guardedStack(t)
	ctx := testContext(t)
	root := self(t)
	if err := s.Pause(ctx, userCaller(1000, ^stacknode.CapSet(0)), cookie, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("another user: got %v, want EPERM", err)
	}
	if err := s.Pause(ctx, root, cookie, time.Minute); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, g, "start", "hold")
	if g.held.limit != time.Minute {
		t.Errorf("limit %v", g.held.limit)
	}
	if err := s.Pause(ctx, root, cookie, 0); !errors.Is(err, stacknode.ErrPaused) {
		t.Errorf("twice: got %v, want ErrPaused", err)
	}
	if lines, err := s.ConnDetails(ctx, cookie, false); err != nil || valueOf(lines, "paused") != "true" {
		t.Errorf("details: got %v, %v", lines, err)
	}
	b, err := s.Checkpoint(ctx, root, cookie)
	if err != nil {
		t.Fatal(err)
	}
	if img, err := image.Decode(b); err != nil || img.Conn.Meta.Live {
		t.Errorf("an image of what is held: got %+v, %v", img.Conn.Meta, err)
	}
	if err := s.Resume(ctx, userCaller(1000, 0), cookie); !errors.Is(err, unix.EPERM) {
		t.Errorf("resume by another user: got %v, want EPERM", err)
	}
	if err := s.Resume(ctx, root, cookie); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, g, "save held", "resume")
	if err := s.Resume(ctx, root, cookie); !errors.Is(err, stacknode.ErrNotPaused) {
		t.Errorf("resume twice: got %v, want ErrNotPaused", err)
	}

	// Held for as long as its limit, or until its owner is killed.
	if err := s.Pause(ctx, root, cookie, 0); err != nil {
		t.Fatal(err)
	}
	close(g.held.done)
	for deadline := time.Now().Add(5 * time.Second); s.pausedOne(cookie) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it stays paused")
		}
	}
	g.fail = unix.EBUSY
	if err := s.Pause(ctx, root, cookie, 0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want the guardian's EBUSY", err)
	}
	g.fail = nil
	g.take()
	if err := s.Pause(ctx, root, cookie, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(ctx, root, cookie); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, g, "hold", "discard")
	if err := s.Discard(ctx, root, cookie); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, g, "hold", "discard")
	if err := s.Pause(ctx, root, cookie, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Abort(ctx, root, cookie); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, g, "hold", "resume")
}

func TestCloseResumesWhatIsPaused(t *testing.T) {
	s, g, cookie := guardedStack(t)
	ctx := testContext(t)
	if err := s.Pause(ctx, self(t), cookie, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, g, "start", "hold", "resume")
	if err := s.Pause(ctx, self(t), cookie, 0); !errors.Is(err, stacknode.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

func TestCloseDuringPause(t *testing.T) {
	s, g, cookie := guardedStack(t)
	ctx := testContext(t)
	g.wait = make(chan bool)
	paused := make(chan error)
	go func() { paused <- s.Pause(ctx, self(t), cookie, 0) }()
	for seen := 0; seen < 2; seen += len(g.take()) {
		time.Sleep(time.Millisecond)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	g.wait <- true
	if err := <-paused; !errors.Is(err, stacknode.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	wantCalls(t, g, "resume")
}

// TestHoldsAreCounted: each costs the daemon and the guardian descriptors.
func TestHoldsAreCounted(t *testing.T) {
	s, g, cookie := guardedStack(t)
	ctx := testContext(t)
	caller := *self(t)
	caller.RealUID = 1000
	s.env.Engine.holds = stacknode.NewQuota(1)
	for range 2 {
		if err := s.Pause(ctx, &caller, cookie, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Resume(ctx, &caller, cookie); err != nil {
			t.Fatal(err)
		}
	}
	g.fail = unix.EBUSY
	if err := s.Pause(ctx, &caller, cookie, 0); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("got %v, want EBUSY", err)
	}
	g.fail = nil
	if err := s.Pause(ctx, &caller, cookie, 0); err != nil {
		t.Fatal(err)
	}
	other := cookieOf(t, connect(t, s.cfg.Worker, "192.0.2.1:4002").client)
	if err := s.Pause(ctx, &caller, other, 0); !errors.Is(err, errHolds) {
		t.Errorf("one too many: got %v, want errHolds", err)
	}
	if err := s.Resume(ctx, &caller, cookie); err != nil {
		t.Fatal(err)
	}
}
