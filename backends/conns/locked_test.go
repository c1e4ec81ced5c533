package conns

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/fstests"
	"github.com/stackfs/stackfs/stacknode"
)

// lock has the lock of a socket kept, by a write from memory that does not
// arrive until the returned function is called.
func lock(t *testing.T, fd int) (letGo func()) {
	t.Helper()
	mem, provide, err := missing(4096)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skipf("needs userfaultfd: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = unix.Write(fd, mem)
	}()
	time.Sleep(50 * time.Millisecond)
	letGo = func() {
		provide()
		<-done
	}
	t.Cleanup(func() {
		letGo()
		_ = unix.Munmap(mem)
	})
	return letGo
}

// Who keeps the lock of his socket makes nobody wait who only looks at it, or
// ends it, or closes the stack.
func TestSocketLockedByItsOwner(t *testing.T) {
	t.Run("as this kernel is", testSocketLocked)
	if here := inTurn; !here() { // elsewhere the other way stops all of sock_diag
		t.Run("requests in turn", func(t *testing.T) {
			inTurn = func() bool { return true }
			defer func() { inTurn = here }()
			testSocketLocked(t)
		})
	}
}

func testSocketLocked(t *testing.T) {
	t.Helper()
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	p := connect(t, w, "127.0.0.1:4001")
	cookie, beside := cookieOf(t, p.client), cookieOf(t, p.server)
	has := func(list []stacknode.Line, key string) bool {
		return slices.ContainsFunc(list, func(l stacknode.Line) bool { return l.Key == key })
	}
	list, err := s.ConnDetails(ctx, cookie, false)
	if err != nil || !has(list, "rtt-ms") || has(list, "lacks") {
		t.Fatalf("before: got %v, %v", list, err)
	}
	letGo := lock(t, p.client)
	began := time.Now()
	list, err = s.ConnDetails(ctx, cookie, false)
	if took := time.Since(began); err != nil || has(list, "rtt-ms") || !has(list, "local") || !has(list, "congestion") || !has(list, "lacks") || took > 5*time.Second {
		t.Errorf("locked: got %v, %v after %v", list, err, took)
	}
	if list, err = s.ConnDetails(ctx, beside, false); err != nil || !has(list, "rtt-ms") {
		t.Errorf("another: got %v, %v", list, err)
	}
	// Long enough for the abort to begin.
	early, cancel := context.WithTimeout(ctx, fstests.ScaleTime(100*time.Millisecond))
	defer cancel()
	began = time.Now()
	if err := s.Abort(early, self(t), cookie); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > fstests.ScaleTime(5*time.Second) {
		t.Errorf("abort: got %v after %v", err, time.Since(began))
	}
	letGo()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := s.Conn(ctx, cookie); errors.Is(err, stacknode.ErrNoConn) {
			return // the abort that had begun
		}
		if time.Now().After(end) {
			t.Fatal("let go, and yet not ended")
		}
	}
}

// The requests that wait for the locks of one user's sockets are threads of
// the daemon: they are counted, and others do not wait with them.
func TestAskIsCountedForEachUser(t *testing.T) {
	ctx := testContext(t)
	l := &locks{}
	go1, stop := context.WithCancel(ctx)
	began := make(chan struct{}, asksPerUser+1)
	wait := func() (int, error) {
		began <- struct{}{}
		<-go1.Done()
		return 1, nil
	}
	for range asksPerUser {
		if got, err := ask(ctx, l, 1000, time.Millisecond, wait); !errors.Is(err, errLocked) {
			t.Fatalf("got %d, %v, want errLocked", got, err)
		}
	}
	// The timer may be over before fn was called.
	if got, err := ask(ctx, l, 1000, 20*time.Millisecond, wait); !errors.Is(err, errLocked) {
		t.Errorf("one too many: got %d, %v, want errLocked", got, err)
	}
	if n := len(began); n > asksPerUser {
		t.Errorf("%d calls at a time, want at most %d", n, asksPerUser)
	}
	quick := func() (int, error) { return 2, nil }
	if got, err := ask(ctx, l, 1001, time.Minute, quick); got != 2 || err != nil {
		t.Errorf("another user: got %d, %v", got, err)
	}
	stop()
	if got, err := ask(ctx, l, 1000, time.Minute, quick); got != 2 || err != nil {
		t.Errorf("when they have ended: got %d, %v", got, err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := ask(gone, &locks{}, 1000, time.Minute, func() (int, error) { <-ctx.Done(); return 0, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who has gone: got %v", err)
	}
}
