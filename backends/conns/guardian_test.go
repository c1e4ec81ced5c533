package conns

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/guardian"
	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode"
)

// guardianEnv makes this program a guardian.
const guardianEnv = "STACKFS_CONNS_GUARDIAN"

func TestMain(m *testing.M) {
	if os.Getenv(guardianEnv) != "" {
		if err := guardian.Main(os.NewFile(3, "control"), slog.New(slog.DiscardHandler)); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func spawnGuardian(control *os.File) (*os.Process, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{guardianEnv + "=1"}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{control}
	err := cmd.Start()
	return cmd.Process, err
}

// realStack is a stack with a guardian, and a connection whose client is
// held by a process of uid's alone.
func realStack(t *testing.T, uid uint32) (*Stack, *pair, uint64) {
	t.Helper()
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeRepair)
	s.env.Engine.guard.start = func() (Guardian, error) {
		c, err := guardian.Start(testLog(t), spawnGuardian)
		return client{c}, err
	}
	p := connect(t, w, "192.0.2.1:4001")
	mustWrite(t, p.client, "to the server")
	mustWrite(t, p.server, "to the client")
	cookie := cookieOf(t, p.client)
	holder(t, uid, p.client)
	closeFD(&p.client)
	return s, p, cookie
}

func TestMoveOfWhatAUserOwns(t *testing.T) {
	s, p, cookie := realStack(t, 1000)
	ctx := testContext(t)
	user := userCaller(1000, 0)
	b, err := s.Checkpoint(ctx, user, cookie)
	if err != nil {
		t.Fatal(err)
	}
	if img, err := image.Decode(b); err != nil || !img.Conn.Meta.Live || img.Conn.Meta.Method != "repair" || string(img.Conn.Recv) != "to the client" {
		t.Fatalf("got %+v, %v", img, err)
	}
	if err := s.Pause(ctx, user, cookie, time.Minute); err != nil {
		t.Fatal(err)
	}
	// Now the guardian, which is root's, has the socket too.
	if err := s.Resume(ctx, user, cookie); err != nil {
		t.Fatalf("resume: %v", err)
	}
	if err := s.Pause(ctx, user, cookie, time.Minute); err != nil {
		t.Fatal(err)
	}
	if b, err = s.Checkpoint(ctx, user, cookie); err != nil {
		t.Fatal(err)
	}
	img, err := image.Decode(b)
	if err != nil || img.Conn.Meta.Live || img.Conn.Meta.UID != 0 || img.Seal == nil || img.Seal.UID != 1000 {
		t.Fatalf("got %+v, %v", img, err)
	}
	if err := s.Discard(ctx, user, cookie); err != nil {
		t.Fatal(err)
	}
	f, err := s.Restore(ctx, user, b)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mustWrite(t, int(f.Fd()), ", again")
	if got := mustRead(t, p.server, len("to the server, again")); got != "to the server, again" {
		t.Errorf("the server got %q", got)
	}
	if got := mustRead(t, int(f.Fd()), len("to the client")); got != "to the client" {
		t.Errorf("the client got %q", got)
	}
}

func TestNobodyFreezesWhatHeMayNotTrace(t *testing.T) {
	s, p, cookie := realStack(t, 1000)
	ctx := testContext(t)
	var refused *stacknode.HolderError
	if err := s.Pause(ctx, userCaller(1001, 0), cookie, 0); !errors.As(err, &refused) {
		t.Errorf("another user: got %v", err)
	}
	if err := s.Discard(ctx, self(t), cookie); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(p.server, true); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := unix.Read(p.server, b); n != len("to the server") {
		t.Errorf("the peer read %d, %v", n, err)
	}
	if n, err := unix.Read(p.server, b); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the peer of what was discarded noticed: %d, %v", n, err)
	}
}

func TestPauseEndsByItself(t *testing.T) {
	s, _, cookie := realStack(t, 0)
	ctx := testContext(t)
	if err := s.Pause(ctx, self(t), cookie, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); s.pausedOne(cookie) != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it stays paused")
		}
	}
	if err := s.Resume(ctx, self(t), cookie); !errors.Is(err, stacknode.ErrNotPaused) {
		t.Errorf("got %v, want ErrNotPaused", err)
	}
}
