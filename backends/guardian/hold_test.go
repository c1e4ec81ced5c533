package guardian

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

func TestHold(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	ctx := context.Background()
	h, err := c.Hold(ctx, p.request, 0)
	must(t, err)
	p.send("while it is held")
	p.silent(100 * time.Millisecond)
	var first *soccr.Conn
	for range 3 {
		conn, err := h.Save(ctx)
		must(t, err)
		if len(conn.Recv) != 0 || conn.Options["SO_REUSEADDR"] != 1 || conn.Meta.Cookie != p.request.Cookie {
			t.Errorf("got %+v", conn)
		}
		if first == nil {
			first = conn
		}
		first.Timestamp, conn.Timestamp = 0, 0
		if conn.Data != first.Data {
			t.Errorf("it moves: %+v, %+v", first.Data, conn.Data)
		}
	}
	if _, err := c.Save(ctx, p.request); !errors.Is(err, stacknode.ErrPaused) {
		t.Errorf("another Save: got %v, want ErrPaused", err)
	}
	if _, err := c.Hold(ctx, p.request, 0); !errors.Is(err, stacknode.ErrPaused) {
		t.Errorf("another Hold: got %v, want ErrPaused", err)
	}
	select {
	case <-h.Done():
		t.Error("Done before the end")
	default:
	}
	must(t, h.Resume())
	<-h.Done()
	if err := h.Err(); err != nil {
		t.Errorf("Err: %v", err)
	}
	unharmed(t, p.pid())
	p.expect("while it is held") // the peer's kernel sent it again
	for what, err := range map[string]error{
		"Resume": h.Resume(), "Discard": h.Discard(), "Save": func() error { _, err := h.Save(ctx); return err }(),
	} {
		if !errors.Is(err, stacknode.ErrNotPaused) {
			t.Errorf("%s after the end: got %v, want ErrNotPaused", what, err)
		}
	}
}

func TestDiscard(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	h, err := c.Hold(context.Background(), p.request, time.Minute)
	must(t, err)
	must(t, h.Discard())
	<-h.Done()
	p.says("ECONNABORTED", "end")
	p.silent(300 * time.Millisecond)
	// The peer goes on believing in it.
	info, err := unix.GetsockoptTCPInfo(p.peer, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil || soccr.State(info.State) != soccr.Established {
		t.Errorf("state of the peer: %d, %v", info.State, err)
	}
}

func TestHoldLimit(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	begin := time.Now()
	h, err := c.Hold(context.Background(), p.request, 200*time.Millisecond)
	must(t, err)
	within(t, 2*time.Second, "the limit", func() { <-h.Done() })
	if d := time.Since(begin); d < 200*time.Millisecond {
		t.Errorf("it ended after %v", d)
	}
	if err := h.Err(); !errors.Is(err, errLimit) {
		t.Errorf("Err: got %v, want %v", err, errLimit)
	}
	unharmed(t, p.pid())
	p.roundTrip("after the limit")
	if err := h.Resume(); !errors.Is(err, stacknode.ErrNotPaused) {
		t.Errorf("Resume: got %v, want ErrNotPaused", err)
	}
}

// Two connections of one process can be held at a time; it goes on after the
// last.
func TestHoldOfTwoConnections(t *testing.T) {
	c, _ := startClient(t)
	pairs := newPairs(t, 2)
	ctx := context.Background()
	a, err := c.Hold(ctx, pairs[0].request, 0)
	must(t, err)
	if _, err := c.Save(ctx, pairs[1].request); err != nil {
		t.Errorf("a save beside the hold: %v", err)
	}
	b, err := c.Hold(ctx, pairs[1].request, 0)
	must(t, err)
	must(t, a.Resume())
	if runs(pairs[0].pid()) == nil {
		t.Error("the owner of both goes on")
	}
	pairs[0].send("one")
	pairs[0].silent(50 * time.Millisecond)
	must(t, b.Resume())
	pairs[0].expect("one")
	pairs[1].roundTrip("two")
}

// A forked child holds the connection, too, and is frozen as well.
func TestHoldOfSharedConnection(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	other := exec.Command("sleep", "60")
	must(t, look(t, p.pid(), func(fd int) error {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		must(t, err)
		f := os.NewFile(uintptr(own), "shared")
		defer f.Close()
		other.ExtraFiles = []*os.File{f}
		return other.Start()
	}))
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	h, err := c.Hold(context.Background(), p.request, 0)
	must(t, err)
	for _, pid := range []int{p.pid(), other.Process.Pid} {
		if runs(pid) == nil {
			t.Errorf("process %d is not frozen", pid)
		}
	}
	must(t, h.Resume())
	unharmed(t, p.pid())
	unharmed(t, other.Process.Pid)
	p.roundTrip("afterwards")
}

func TestCancel(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	for i := range 30 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*500*time.Microsecond)
		h, err := c.Hold(ctx, p.request, 0)
		if err == nil {
			must(t, h.Resume())
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Hold: got %v, want DeadlineExceeded", err)
		}
		cancel()
		unharmed(t, p.pid())
		ctx, cancel = context.WithTimeout(context.Background(), time.Duration(i)*500*time.Microsecond)
		if _, err := c.Save(ctx, p.request); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Save: got %v, want DeadlineExceeded", err)
		}
		cancel()
		unharmed(t, p.pid())
	}
	p.roundTrip("after all that")
}

func TestCloseResumes(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	h, err := c.Hold(context.Background(), p.request, 0)
	must(t, err)
	must(t, c.Close())
	<-h.Done()
	unharmed(t, p.pid())
	p.roundTrip("after the end")
	if _, err := c.Save(context.Background(), p.request); !errors.Is(err, stacknode.ErrClosed) {
		t.Errorf("Save: got %v, want ErrClosed", err)
	}
	if pid := c.PID(); pid != 0 {
		t.Errorf("PID %d", pid)
	}
}

func TestRefusals(t *testing.T) {
	c, _ := startClient(t)
	p := newPair(t)
	ctx := context.Background()
	nobody := p.request
	nobody.Tracer = peer.Tracer{PID: os.Getpid(), UID: 65534, GID: 65534, EUID: 65534, UserNS: p.request.Tracer.UserNS}
	_, err := c.Save(ctx, nobody)
	var holder *stacknode.HolderError
	if !errors.As(err, &holder) || holder.PID != p.pid() || !errors.Is(err, unix.EPERM) {
		t.Errorf("for another user: got %v", err)
	}
	itself := p.request
	itself.Tracer.PID = p.pid()
	if _, err := c.Save(ctx, itself); !errors.Is(err, unix.EDEADLK) {
		t.Errorf("for the owner itself: got %v, want EDEADLK", err)
	}
	none := p.request
	none.Inode = 1
	if _, err := c.Save(ctx, none); !errors.Is(err, ErrUnheld) {
		t.Errorf("of no socket: got %v, want ErrUnheld", err)
	}
	other := p.request
	other.Cookie++
	if _, err := c.Save(ctx, other); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("another cookie: got %v, want EAGAIN", err)
	}
	// The test is the daemon here.
	err = look(t, p.pid(), func(int) error {
		_, err := c.Save(ctx, p.request)
		return err
	})
	if !errors.Is(err, errOurs) {
		t.Errorf("held by the daemon: got %v, want %v", err, errOurs)
	}
	// Urgent data cannot be saved.
	must(t, unix.Kill(p.pid(), unix.SIGSTOP))
	must(t, unix.Sendto(p.peer, []byte("u"), unix.MSG_OOB, nil))
	time.Sleep(10 * time.Millisecond)
	var why *soccr.UnsaveableError
	if _, err := c.Save(ctx, p.request); !errors.As(err, &why) || !strings.Contains(why.Reason, "urgent") {
		t.Errorf("urgent data: got %v", err)
	}
	must(t, unix.Kill(p.pid(), unix.SIGCONT))
	unharmed(t, p.pid())
}

// Many at a time, of several processes and of one.
func TestManyAtATime(t *testing.T) {
	c, _ := startClient(t)
	var pairs []*pair
	for range 4 {
		pairs = append(pairs, newPair(t))
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 5 {
				if _, err := c.Save(context.Background(), pairs[i%4].request); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, p := range pairs {
		unharmed(t, p.pid())
		p.roundTrip("after that")
	}
}
