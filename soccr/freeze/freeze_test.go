package freeze

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/fstests"
)

func TestFreezeStopsEveryThread(t *testing.T) {
	f := New(nil, nil)
	for _, mode := range []string{"spin", "spawn"} {
		t.Run(mode, func(t *testing.T) {
			p := start(t, mode)
			p.waitReady()
			for range 100 {
				z := mustFreeze(t, f, p.pid)
				if s := p.states(); strings.Trim(s, "t") != "" || s == "" {
					t.Fatalf("states of the threads of a frozen process: %q, want t", s)
				}
				before := load(&p.count.turns)
				time.Sleep(500 * time.Microsecond)
				if after := load(&p.count.turns); after != before {
					t.Fatalf("the frozen process went on: %d, %d", before, after)
				}
				z.Thaw()
				wait(t, "the process goes on", func() bool { return load(&p.count.turns) != before })
			}
			if mode == "spawn" && load(&p.count.threads) < 100 {
				t.Errorf("%d threads were started", load(&p.count.threads))
			}
		})
	}
}

// The first thread of a process may have ended; it stays as a zombie.
func TestFreezeWithoutFirstThread(t *testing.T) {
	p := start(t, "headless")
	wait(t, "its first thread ends", func() bool {
		st, err := readStat(p.pid, p.pid)
		return err == nil && st.ended()
	})
	p.waitReady()
	z := mustFreeze(t, New(nil, nil), p.pid)
	before := load(&p.count.turns)
	time.Sleep(5 * time.Millisecond)
	if after := load(&p.count.turns); after != before {
		t.Errorf("the frozen process went on: %d, %d", before, after)
	}
	z.Thaw()
	wait(t, "the process goes on", func() bool { return load(&p.count.turns) != before })
}

func TestFreezeIsShared(t *testing.T) {
	f := New(nil, nil)
	p := start(t, "spin")
	p.waitReady()
	a, b := mustFreeze(t, f, p.pid), mustFreeze(t, f, p.pid)
	a.Thaw()
	a.Thaw()
	time.Sleep(2 * time.Millisecond)
	if s := p.states(); s != "t" {
		t.Errorf("after one of two thaws: state %s, want t", s)
	}
	b.Thaw()
	before := load(&p.count.turns)
	wait(t, "the process goes on", func() bool { return load(&p.count.turns) != before })
	if len(f.procs) != 0 {
		t.Errorf("%d processes are left", len(f.procs))
	}
}

func TestFreezeRefuses(t *testing.T) {
	fstests.Require(t, fstests.Root)
	other := errors.New("not this one")
	f := New(func(pid int) error {
		if pid == os.Getppid() {
			return other
		}
		return nil
	}, nil)
	for pid, want := range map[int]error{
		1: syscall.EPERM, 2: syscall.EPERM, os.Getpid(): syscall.EPERM, os.Getppid(): other, 1 << 22: ErrGone,
	} {
		if z, err := f.Freeze(context.Background(), pid); !errors.Is(err, want) {
			t.Errorf("process %d: got %v, want %v", pid, err, want)
			if err == nil {
				z.Thaw()
			}
		}
	}
}

func TestFreezeOfATracedProcess(t *testing.T) {
	p := start(t, "spin")
	p.waitReady()
	tracer := start(t, "trace", fmt.Sprint(p.pid))
	tracer.waitReady()
	_, err := New(nil, nil).Freeze(context.Background(), p.pid)
	want := fmt.Sprintf("process %d (waits) is being traced by process %d (waits)", p.pid, tracer.pid)
	if !errors.Is(err, syscall.EBUSY) || err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	var traced *TracedError
	if !errors.As(err, &traced) || traced.Tracer != tracer.pid {
		t.Errorf("got %#v", err)
	}
	before := load(&p.count.turns)
	wait(t, "the process goes on", func() bool { return load(&p.count.turns) != before })
}

func TestFreezeOf32BitProgram(t *testing.T) {
	fstests.Require(t, fstests.Root, fstests.Compiler32)
	p := startBy(t, nil, waits(t, "-m32"), "spin")
	// Its long is half as long: turns and eintr are in one word here.
	wait(t, "the program runs", func() bool { return load(&p.count.turns) != 0 })
	_, err := New(nil, nil).Freeze(context.Background(), p.pid)
	if !errors.Is(err, syscall.EOPNOTSUPP) || !strings.Contains(err.Error(), "(waits) is a program of 32 bits") {
		t.Errorf("got %v", err)
	}
	before := load(&p.count.turns)
	wait(t, "the program goes on", func() bool { return load(&p.count.turns) != before })
}

func TestFreezeOfAStuckThread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "stuck", path)
	p.waitReady()
	wait(t, "the vfork", func() bool { return strings.Contains(p.states(), "D") })
	// With a lifeline, whose worker takes longer to end.
	f := New(nil, func(*os.File) error { return nil })
	begin := time.Now()
	_, err := f.Freeze(context.Background(), p.pid)
	var stuck *StuckError
	if !errors.As(err, &stuck) || !errors.Is(err, syscall.ETIMEDOUT) || stuck.PID != p.pid || stuck.State != 'D' {
		t.Fatalf("got %v", err)
	}
	if d := time.Since(begin); d > patience+200*time.Millisecond {
		t.Errorf("it took %v", d)
	}
	before := load(&p.count.turns)
	wait(t, "the process goes on", func() bool { return load(&p.count.turns) != before })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustFreeze(t, f, p.pid).Thaw()
}

func TestFreezeIsCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "stuck", path)
	p.waitReady()
	wait(t, "the vfork", func() bool { return strings.Contains(p.states(), "D") })
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := New(nil, nil).Freeze(ctx, p.pid); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	before := load(&p.count.turns)
	wait(t, "the process goes on", func() bool { return load(&p.count.turns) != before })
	os.Remove(path)
}

// The parent of a frozen process learns at once that it was killed.
func TestKilledWhileFrozen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	counters := filepath.Join(t.TempDir(), "counters")
	if err := os.WriteFile(counters, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	shell := launch(t, "sh", "-c", `"$1" "$2" all & echo $! > "$0"; wait $!; echo "status $?"`, file, waits(t), counters)
	var pid int
	wait(t, "the child", func() bool {
		b, _ := os.ReadFile(file)
		_, err := fmt.Sscan(string(b), &pid)
		return err == nil
	})
	wait(t, "all threads", func() bool {
		tids, _ := readThreads(pid)
		return len(tids) == 12
	})
	z := mustFreeze(t, New(nil, nil), pid)
	defer z.Thaw()
	if z.Gone() {
		t.Error("gone before the kill")
	}
	begin := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := shell.output(2 * time.Second); got != "status 137" {
		t.Errorf("the parent says %q, want status 137", got)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("the parent learnt of it after %v", d)
	}
	wait(t, "Gone", z.Gone)
}

func TestStoppedBefore(t *testing.T) {
	f := New(nil, nil)
	p := start(t, "signals", "epoll_wait")
	p.waitAsleep()
	if err := unix.Kill(p.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	wait(t, "the stop", func() bool { return p.states() == "T" })
	for range 20 {
		z := mustFreeze(t, f, p.pid)
		if s := p.states(); s != "t" {
			t.Fatalf("frozen: state %s", s)
		}
		z.Thaw()
		wait(t, "it is stopped as before", func() bool { return p.states() == "T" })
	}
	// Without us the stop interrupts epoll_wait, too: signal(7).
	if err := unix.Kill(p.pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	wait(t, "EINTR of the stop", func() bool { return load(&p.count.eintr) == 1 })
	p.waitAsleep()
}

func TestStoppedAndContinuedWhileFrozen(t *testing.T) {
	f := New(nil, nil)
	p := start(t, "spin")
	p.waitReady()
	z := mustFreeze(t, f, p.pid)
	if err := unix.Kill(p.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	z.Thaw()
	wait(t, "the stop", func() bool { return p.states() == "T" })

	z = mustFreeze(t, f, p.pid)
	if err := unix.Kill(p.pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	before := load(&p.count.turns)
	time.Sleep(5 * time.Millisecond)
	if after := load(&p.count.turns); after != before {
		t.Errorf("SIGCONT thawed it: %d, %d", before, after)
	}
	z.Thaw()
	wait(t, "it goes on", func() bool { return load(&p.count.turns) != before })
}

func TestFreezeInPidNamespace(t *testing.T) {
	fstests.Require(t, fstests.Root, fstests.Program("unshare"))
	p := startBy(t, []string{"unshare", "-pf", "--kill-child"}, waits(t), "spin")
	p.waitReady()
	out, err := os.ReadFile(taskFile(p.pid, p.pid, "children"))
	var pid int
	if err == nil {
		_, err = fmt.Sscan(string(out), &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	z := mustFreeze(t, New(nil, nil), pid)
	before := load(&p.count.turns)
	time.Sleep(5 * time.Millisecond)
	if after := load(&p.count.turns); after != before {
		t.Errorf("the frozen process went on: %d, %d", before, after)
	}
	z.Thaw()
	wait(t, "the process goes on", func() bool { return load(&p.count.turns) != before })
}

// A process may replace its program, by another thread than the first, while
// it is about to be frozen.
func TestFreezeDuringExec(t *testing.T) {
	f := New(nil, nil)
	p := start(t, "exec")
	p.waitReady()
	for range 100 {
		z := mustFreeze(t, f, p.pid)
		before := load(&p.count.threads)
		time.Sleep(time.Millisecond)
		if after := load(&p.count.threads); after != before {
			t.Fatalf("the frozen process went on: %d, %d", before, after)
		}
		z.Thaw()
	}
	before := load(&p.count.ready)
	wait(t, "it replaces its program again", func() bool { return load(&p.count.ready) != before })
	if before < uint64(fstests.Scale(20)) {
		t.Errorf("only %d programs", before)
	}
}

// freezeAndWait is a program that freezes a process and is then killed. Its
// descriptor 3 takes the lifelines.
func freezeAndWait(pid string) {
	var n int
	fmt.Sscan(pid, &n)
	announce := func(end *os.File) error {
		return unix.Sendmsg(3, []byte{1}, unix.UnixRights(int(end.Fd())), nil, 0)
	}
	if _, err := New(nil, announce).Freeze(context.Background(), n); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("frozen")
	time.Sleep(time.Minute)
}

// startFreezer runs it until it has frozen the process.
func startFreezer(t *testing.T, p *program) (cmd *exec.Cmd, lifeline *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine, its := os.NewFile(uintptr(pair[0]), "mine"), os.NewFile(uintptr(pair[1]), "its")
	defer mine.Close()
	cmd = exec.Command("/proc/self/exe", "freeze-and-wait", fmt.Sprint(p.pid))
	cmd.ExtraFiles = []*os.File{its}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	its.Close()
	if err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 100)
	n, _ := out.Read(said)
	if got := string(said[:n]); got != "frozen\n" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if p.running() {
			t.Fatalf("the freezer says %q", got)
		}
		return nil, nil
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err = unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(cmsgs) != 1 {
		t.Fatalf("%d control messages, %v", len(cmsgs), err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	return cmd, os.NewFile(uintptr(fds[0]), "lifeline")
}

// A lifeline hangs up before the process goes on.
func TestLifeline(t *testing.T) {
	p := start(t, "spin")
	p.waitReady()
	const times = 10
	early := 0
	for range times {
		cmd, lifeline := startFreezer(t, p)
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(lifeline.Fd()), Events: unix.POLLIN}}, 0); n != 0 {
			t.Fatalf("the lifeline says something while all is well: %v", err)
		}
		before := load(&p.count.turns)
		_ = cmd.Process.Kill()
		n, err := unix.Read(int(lifeline.Fd()), make([]byte, 1))
		if load(&p.count.turns) == before {
			early++
		}
		if n != 0 || err != nil {
			t.Errorf("the lifeline says %d, %v, want that it hangs up", n, err)
		}
		lifeline.Close()
		_ = cmd.Wait()
		wait(t, "the process goes on", func() bool { return load(&p.count.turns) != before })
	}
	if early < times*7/10 {
		t.Errorf("%d of %d times the process stood still when the lifeline hung up", early, times)
	}
}

// A thread that ends in good order says so, and one is used again and again.
func TestLifelinesInGoodOrder(t *testing.T) {
	var ends []int
	f := New(nil, func(end *os.File) error {
		fd, err := unix.FcntlInt(end.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		ends = append(ends, fd)
		return err
	})
	p := start(t, "spin")
	p.waitReady()
	for range 20 {
		mustFreeze(t, f, p.pid).Thaw()
	}
	f.Close()
	wait(t, "its inotify instances are given back", func() bool { return f.workers.slow.Load() == 0 })
	if len(ends) != 1 {
		t.Errorf("%d threads for one process", len(ends))
	}
	for _, fd := range ends {
		b := make([]byte, 2)
		if n, err := unix.Read(fd, b); n != 1 || err != nil {
			t.Errorf("a lifeline says %d, %v, want a byte", n, err)
		}
		if n, err := unix.Read(fd, b); n != 0 || err != nil {
			t.Errorf("then it says %d, %v, want that it hangs up", n, err)
		}
		unix.Close(fd)
	}
}

// Whoever freezes may be killed at any time. The process goes on, its call
// does too, and no signal is lost that was about to be delivered.
func TestFreezerIsKilled(t *testing.T) {
	p := start(t, "queue", "1500")
	wait(t, "the first signal", func() bool { return load(&p.count.handled) > 0 })
	for i := 0; p.running() && i < 15; i++ {
		cmd, lifeline := startFreezer(t, p)
		if cmd == nil {
			break
		}
		lifeline.Close()
		time.Sleep(2 * time.Millisecond)
		before := load(&p.count.handled)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		wait(t, "the process goes on", func() bool { return load(&p.count.handled) != before || !p.running() })
	}
	if got := p.output(5 * time.Second); got != "1500" {
		t.Errorf("%s handlers ran, want 1500", got)
	}
	if n := load(&p.count.disorder); n != 0 {
		t.Errorf("%d signals were not the next one", n)
	}
}
