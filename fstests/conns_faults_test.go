package fstests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr/image"
)

// forEngines runs a test for each way to checkpoint.
func forEngines(t *testing.T, allowLog []string, fn func(t *testing.T, s *connsSite)) {
	for _, engine := range []string{"bpf", "repair"} {
		t.Run(engine, func(t *testing.T) { fn(t, newConnsSite(t, engine, allowLog...)) })
	}
}

// An attacked exchange is one whose sockets are looked at.
type attacked struct {
	*exchange
	s     *connsSite
	paths [2]string
	rows  [2]connRow
	pids  [2]int
	marks [2]socketMarks // as they must stay
}

// attack starts an exchange on the loopback of the stack here; its bytes
// flow.
func (s *connsSite) attack(t testing.TB, x exchanger, port int, opts ...string) *attacked {
	t.Helper()
	a := s.attackIdle(t, x, port, opts...)
	a.begin()
	return a
}

// attackIdle is attack before the bytes flow.
func (s *connsSite) attackIdle(t testing.TB, x exchanger, port int, opts ...string) *attacked {
	t.Helper()
	r := s.routes()[0]
	a := &attacked{exchange: s.connect(t, x, r, port, opts...), s: s}
	for i, p := range a.sides() {
		a.rows[i] = s.connOf("here", port, p == a.server)
		a.paths[i] = s.checkpointPath("here", a.rows[i].cookie)
		a.pids[i] = p.pid()
		a.marks[i] = mustMarksOf(t, p.pid(), a.rows[i].inode)
		if a.marks[i].repair != 0 || a.marks[i].reuse != 1 || a.marks[i].filter == "" {
			t.Fatalf("the socket is at first %+v, want SO_REUSEADDR and a filter", a.marks[i])
		}
	}
	return a
}

// unharmed waits until both programs run and their sockets are as before.
func (a *attacked) unharmed(what string) {
	a.t.Helper()
	for i, pid := range a.pids {
		wantLetGo(a.t, what, pid, a.rows[i].inode, a.marks[i])
	}
}

// readers checkpoint both sides all the time until they are stopped, whatever
// comes of it. done counts the images.
func (a *attacked) readers(n int) (stop func(), done *atomic.Int64) {
	done = new(atomic.Int64)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				if b, err := os.ReadFile(a.paths[i%2]); err == nil && len(b) > 0 {
					done.Add(1)
				} else {
					time.Sleep(time.Millisecond) // no daemon at the moment
				}
			}
		})
	}
	return func() {
		a.t.Helper()
		close(quit)
		_ = Within(a.t, answerTime, "the last checkpoints", func() error { wg.Wait(); return nil })
	}, done
}

// lossFloor is how long (scaled) an exchange may stall when somebody is
// killed: a second until everything is as before, and what TCP then takes to
// send again what was dropped.
const lossFloor = 3 * time.Second

// wantFlow ends the exchange, which must not have stalled for too long.
func (a *attacked) wantFlow() {
	a.t.Helper()
	server, client := a.end()
	if gap := max(server.gap(), client.gap()); gap > ScaleTime(lossFloor) {
		a.t.Errorf("the longest stall is %v", gap)
	} else {
		a.t.Logf("the longest stall is %v", gap)
	}
}

// The daemon is killed at random moments while connections are checkpointed:
// nobody stays frozen, no socket stays as no program may find it.
func TestDaemonKilledWhileCheckpointing(t *testing.T) {
	programs := []exchanger{exchangerC(t, "epoll"), exchangerC(t, "block")}
	forEngines(t, nil, func(t *testing.T, s *connsSite) {
		for i, x := range programs {
			a := s.attack(t, x, 7000+i, "size=16384", "buf=131072", "rate=20000000")
			var images int64
			for range Scale(25) {
				stop, done := a.readers(2)
				WaitFor(t, 10*time.Second, "the first images", func() bool { return done.Load() > 2 })
				time.Sleep(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
				s.Kill()
				a.unharmed("the daemon was killed")
				s.Start()
				stop()
				images += done.Load()
			}
			t.Logf("%s: %d images", x.name, images)
			a.wantFlow()
		}
	})
}

// guardian is findGuardian for one that must be there.
func (s *connsSite) guardian(t *testing.T) int {
	t.Helper()
	pid := s.findGuardian()
	if pid == 0 {
		t.Fatal("the daemon has no guardian")
	}
	return pid
}

// If the guardian itself is killed the daemon puts back what it can. In the
// few milliseconds until then a program that uses its socket may see errors,
// and a call that was interrupted is not given back: the programs here wait.
func TestGuardianKilledWhileCheckpointing(t *testing.T) {
	x := exchangerC(t, "epoll")
	s := newConnsSite(t, "repair", "the guardian ended")
	a := s.attackIdle(t, x, 7000)
	a.interrupted = true
	for range Scale(20) {
		stop, done := a.readers(2)
		WaitFor(t, 10*time.Second, "the first images", func() bool { return done.Load() > 2 })
		time.Sleep(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
		mustDo(t, syscall.Kill(s.guardian(t), syscall.SIGKILL))
		had := done.Load()
		WaitFor(t, 10*time.Second, "images under another guardian", func() bool { return done.Load() > had+2 })
		stop()
		a.unharmed("the guardian was killed")
	}
	a.begin()
	time.Sleep(200 * time.Millisecond)
	a.wantFlow()
}

func TestCallersKilledWhileCheckpointing(t *testing.T) {
	x := exchangerC(t, "epoll")
	forEngines(t, nil, func(t *testing.T, s *connsSite) {
		a := s.attack(t, x, 7000, "size=16384", "buf=131072", "rate=20000000")
		s.checkpoint("here", a.rows[0].cookie)
		for i := range Scale(100) {
			cat := Command(t, runTime, "cat", a.paths[i%2])
			mustDo(t, cat.Start())
			time.Sleep(time.Duration(rand.Int64N(int64(10 * time.Millisecond))))
			mustDo(t, errors.Join(cat.Process.Kill()))
			_ = cat.Wait()
		}
		a.unharmed("callers were killed")
		s.checkFDs()
		s.checkpoint("here", a.rows[1].cookie)
		a.wantFlow()
	})
}

// An owner that is killed in the middle ends the checkpoint with an error
// that says so; what is killed never hangs.
func TestOwnerKilledWhileCheckpointing(t *testing.T) {
	x := exchangerC(t, "epoll")
	forEngines(t, nil, func(t *testing.T, s *connsSite) {
		for i := range Scale(20) {
			r := s.routes()[0]
			e := s.connect(t, x, r, 7000+i, "size=16384", "buf=131072")
			row := s.connOf("here", e.port, false)
			path := s.checkpointPath("here", row.cookie)
			e.begin()
			failed := make(chan error, 1)
			go func() {
				for {
					if _, err := os.ReadFile(path); err != nil {
						failed <- err
						return
					}
				}
			}()
			time.Sleep(time.Duration(20+rand.IntN(20)) * time.Millisecond)
			killed := time.Now()
			mustDo(t, e.client.cmd.Process.Kill())
			waited := make(chan struct{})
			go func() { _ = e.client.cmd.Wait(); close(waited) }()
			select {
			case <-waited:
			case <-time.After(ScaleTime(5 * time.Second)):
				t.Fatalf("the owner does not end: %v", tasks(e.client.pid(), "State"))
			}
			// The kernel may keep the connection for a while; nobody holds it.
			select {
			case err := <-failed:
				// EOPNOTSUPP: the connection is there yet, and nobody holds it.
				if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.EOPNOTSUPP) {
					t.Errorf("the owner was killed: got %v, want ENOENT, ESTALE or EOPNOTSUPP", err)
				}
			case <-time.After(ScaleTime(5 * time.Second)):
				t.Errorf("still checkpointed %v after its owner was killed: %+v", time.Since(killed), s.conns("here"))
			}
			if err := frozen(e.server.pid()); err != nil {
				t.Error(err)
			}
			mustDo(t, e.server.cmd.Process.Kill())
		}
	})
}

// A program that a debugger traces cannot be frozen too; to look at its
// connection does not take that.
func TestOwnerUnderStrace(t *testing.T) {
	Require(t, Program("strace"))
	x := exchangerC(t, "epoll")
	forEngines(t, nil, func(t *testing.T, s *connsSite) {
		a := s.attack(t, x, 7000, "rate=1000000")
		a.interrupted = true // strace does not give calls back
		pid := a.client.pid()
		strace := Command(t, runTime, "strace", "-f", "-qq", "-e", "trace=none", "-o", "/dev/null", "-p", fmt.Sprint(pid))
		mustDo(t, strace.Start())
		WaitFor(t, 10*time.Second, "strace traces", func() bool { return tasks(pid, "TracerPid")[0] != "0" })
		_, err := os.ReadFile(a.paths[1])
		_, stderr, code := Output(t, s.Command("checkpoint", "-o", filepath.Join(TempDir(t), "image"), s.Path("here", "conns", a.rows[1].cookie)))
		if s.engine == "bpf" {
			if err != nil || code != 0 {
				t.Errorf("checkpoint of a traced program: %v, exit code %d: %s", err, code, stderr)
			}
		} else {
			if !errors.Is(err, unix.EBUSY) {
				t.Errorf("checkpoint of a traced program: got %v, want EBUSY", err)
			}
			if code != 4 || !strings.Contains(stderr, "trace") || !strings.Contains(stderr, fmt.Sprint(pid)) {
				t.Errorf("exit code %d, %q, want 4, the process and that it is traced", code, stderr)
			}
		}
		if tracer := tasks(pid, "TracerPid")[0]; tracer != fmt.Sprint(strace.Process.Pid) {
			t.Errorf("the tracer is %s, want strace", tracer)
		}
		mustDo(t, strace.Process.Signal(syscall.SIGTERM))
		_ = strace.Wait()
		a.unharmed("strace ended")
		s.checkpoint("here", a.rows[1].cookie)
		a.wantFlow()
	})
}

// An image that does not fit on the disk leaves no half of itself.
func TestDiskFullWhileCheckpointing(t *testing.T) {
	x := exchangerC(t, "epoll")
	s := newConnsSite(t, "bpf")
	a := s.attack(t, x, 7000, "size=16384", "buf=1048576")
	dir := TempDir(t)
	mustDo(t, unix.Mount("full", dir, "tmpfs", 0, "size=16k,mode=0755"))
	t.Cleanup(func() { mustDo(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	one := s.Command("checkpoint", "-o", filepath.Join(dir, "image"), s.Path("here", "conns", a.rows[0].cookie))
	all := s.Command("checkpoint", "--all", s.Path("here"), filepath.Join(dir, "all"))
	for _, cmd := range []*exec.Cmd{one, all} {
		_, stderr, code := Output(t, cmd)
		if code != 10 || !strings.Contains(stderr, "no space left") {
			t.Errorf("%v: exit code %d, %q, want 10 and that no space is left", cmd.Args, code, stderr)
		}
	}
	for _, file := range listBelow(dir) {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // a directory
		}
		if _, err := image.Decode(b); err != nil {
			t.Errorf("%s has %d bytes that are no image: %v", file, len(b), err)
		}
	}
	a.unharmed("the disk was full")
	a.wantFlow()
}

func TestHundredCheckpointsAtOnce(t *testing.T) {
	x := exchangerC(t, "epoll")
	forEngines(t, nil, func(t *testing.T, s *connsSite) {
		a, b := s.attack(t, x, 7000, "rate=5000000"), s.attack(t, x, 7001, "rate=5000000")
		paths := append(a.paths[:], b.paths[:]...)
		errs := make(chan error, 100)
		for i := range cap(errs) {
			go func() {
				text, err := os.ReadFile(paths[i%len(paths)])
				if err == nil {
					_, err = image.Decode(text)
				}
				errs <- err
			}()
		}
		start := time.Now()
		for range cap(errs) {
			select {
			case err := <-errs:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(ScaleTime(20 * time.Second)):
				t.Fatal("100 checkpoints at once do not end")
			}
		}
		t.Logf("100 checkpoints at once in %v", time.Since(start))
		a.unharmed("after 100 checkpoints at once")
		b.unharmed("after 100 checkpoints at once")
		s.checkFDs()
		a.wantFlow()
		b.wantFlow()
	})
}

// startFarm makes count sockets with connections between them, with bytes in
// each queue, on the stack here. A process has half of them at most.
func (s *connsSite) startFarm(t *testing.T, count, bytes int) {
	t.Helper()
	Require(t, Compiler)
	bin := Compile(t, filepath.Join("bench", "c", "farm.c"), "-D_GNU_SOURCE")
	for i := range 2 {
		startParty(t, s.here.Command(exchangeTime, bin, fmt.Sprint(count/2), fmt.Sprint(9000+i), fmt.Sprint(bytes)), "ready")
	}
}

func TestTenThousandConnections(t *testing.T) {
	s := newConnsSite(t, "bpf")
	n := 2 * Scale(5000)
	s.startFarm(t, n, 64)
	if got := len(names(t, s.Path("here", "conns"))); got != n {
		t.Errorf("conns has %d entries, want %d", got, n)
	}
	if got := len(s.conns("here")); got != n {
		t.Errorf("connections has %d lines, want %d", got, n)
	}
	dir := filepath.Join(TempDir(t), "all")
	start := time.Now()
	if stdout, stderr, code := Output(t, Command(t, time.Minute, s.bin, "checkpoint", "--all", s.Path("here"), dir)); code != 0 {
		t.Fatalf("checkpoint --all: exit code %d\n%s%s", code, stdout, stderr)
	}
	t.Logf("%d connections in %v", n, time.Since(start).Round(time.Millisecond))
	files, err := filepath.Glob(filepath.Join(dir, "*.img"))
	if err != nil || len(files) != n {
		t.Fatalf("%d images, %v, want %d", len(files), err, n)
	}
	cookies := map[uint64]bool{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		img, err := image.Decode(b)
		if err != nil || len(img.Conn.Recv) != 64 {
			t.Fatalf("%s: %v, %d bytes to receive, want 64", file, err, len(img.Conn.Recv))
		}
		cookies[img.Conn.Meta.Cookie] = true
	}
	if len(cookies) != n {
		t.Errorf("images of %d connections, want %d", len(cookies), n)
	}
}

// Signals at a high rate, of a kind that is merged and of one that is
// queued: each is handled once, and no call is interrupted without one.
func TestSignalStormWhileCheckpointing(t *testing.T) {
	x := exchangerC(t, "epoll")
	s := newConnsSite(t, "repair")
	a := s.attack(t, x, 7000, "rate=5000000", "alarm=1000")
	for i := range Scale(200) {
		s.checkpoint("here", a.rows[i%2].cookie)
	}
	a.unharmed("under a storm of signals")
	server, client := a.end()
	for _, r := range []exchangeReport{server, client} {
		t.Logf("%+v", r)
		if r.Queued < 100 || r.Expired < 100 {
			t.Errorf("%d signals were queued and %d of the timer: the test shows nothing", r.Queued, r.Expired)
		}
		if r.Unexpected != 0 {
			t.Errorf("%d queued signals came twice, late or never", r.Unexpected)
		}
		if d := r.Expired - r.Expected; d < -2 || d > 2 {
			t.Errorf("the timer expired %d times, handled were %d", r.Expected, r.Expired)
		}
	}
}
