package fstests

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A load is processes under run that make sockets all the time.
type load struct {
	m     *runMount
	cmd   *exec.Cmd
	stdin io.Closer
	out   bytes.Buffer
	errs  bytes.Buffer
}

func (m *runMount) startLoad(as func(*exec.Cmd) *exec.Cmd, processes, threads int) *load {
	m.t.Helper()
	l := &load{m: m, cmd: as(m.run("./lab --", m.probe, "load", fmt.Sprint(processes), fmt.Sprint(threads), m.host))}
	var err error
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		m.t.Fatal(err)
	}
	proof := filepath.Join(TempDir(m.t), "started")
	started, err := os.OpenFile(proof, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer started.Close()
	l.cmd.ExtraFiles = []*os.File{started}
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.errs
	if err := l.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	WaitFor(m.t, 20*time.Second, "programs under run make sockets", func() bool {
		st, err := os.Stat(proof)
		return err == nil && st.Size() > 0
	})
	return l
}

// A tally is what a load got.
type tally struct {
	ok, nodev, other, host, bogus int
	errno                         string
	slowest                       float64 // seconds
}

// end ends the load and adds up what its processes got.
func (l *load) end() tally {
	t := l.m.t
	t.Helper()
	l.stdin.Close()
	err := l.cmd.Wait()
	if err != nil {
		t.Errorf("load: %v\n%s%s", err, l.out.String(), l.errs.String())
	}
	var sum tally
	processes := 0
	for line := range strings.Lines(l.out.String()) {
		var p tally
		var n int
		if _, err := fmt.Sscanf(line, "%d: ok %d nodev %d other %d (%s host %d bogus %d slowest %f",
			&n, &p.ok, &p.nodev, &p.other, &p.errno, &p.host, &p.bogus, &p.slowest); err != nil {
			continue
		}
		processes++
		sum.ok, sum.nodev, sum.other = sum.ok+p.ok, sum.nodev+p.nodev, sum.other+p.other
		sum.host, sum.bogus, sum.slowest = sum.host+p.host, sum.bogus+p.bogus, max(sum.slowest, p.slowest)
		if p.other > 0 {
			sum.errno = strings.TrimSuffix(p.errno, ")")
		}
	}
	if want := l.cmd.Args[len(l.cmd.Args)-3]; fmt.Sprint(processes) != want {
		t.Errorf("load: %d processes have ended well, want %s\n%s%s", processes, want, l.out.String(), l.errs.String())
	}
	if sum.host != 0 {
		t.Errorf("%d sockets are of the host's stack", sum.host)
	}
	if sum.bogus != 0 {
		t.Errorf("%d calls returned no socket", sum.bogus)
	}
	if sum.ok == 0 {
		t.Error("no call returned a socket")
	}
	return sum
}

// The daemon is killed at random moments under load, and started again: all
// calls return, and none on another stack.
func TestRunDaemonKilled(t *testing.T) {
	m := newRunMount(t, "")
	loads := []*load{m.startLoad(runUsers["root"], 3, 2), m.startLoad(runUsers["user"], 1, 2)}
	programs := []*asked{m.startAsked(runUsers["root"], "./lab --"), m.startAsked(runUsers["user"], "./lab --")}
	n := Scale(100)
	for i := range n {
		if i%10 == 0 { // no program was lost on the way
			for _, p := range programs {
				p.is("ok LAB")
			}
		}
		time.Sleep(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
		m.Kill()
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.Int64N(int64(50 * time.Millisecond))))
		}
		m.Start()
	}
	for _, l := range loads {
		sum := l.end()
		if sum.other != 0 {
			t.Errorf("%d calls failed with %s, only ENODEV may be", sum.other, sum.errno)
		}
		if sum.nodev == 0 {
			t.Error("no call failed: the daemon was not missed")
		}
		if limit := ScaleTime(10 * time.Second).Seconds(); sum.slowest > limit {
			t.Errorf("a call took %.1f s", sum.slowest)
		}
		t.Logf("%d kills: %+v", n, sum)
	}
}

// killKeeper kills the keeper and waits for the next one.
func (m *runMount) killKeeper() {
	m.t.Helper()
	old := m.Keeper()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	WaitFor(m.t, 10*time.Second, "a new keeper", func() bool {
		m.findKeeper()
		return m.Keeper() != old
	})
	// It is there before it knows what it is to hold.
	time.Sleep(ScaleTime(300 * time.Millisecond))
}

// A keeper that is killed comes back and knows what the one before knew.
func TestRunKeeperKilled(t *testing.T) {
	m := newRunMount(t, "", "the keeper ended")
	l := m.startLoad(runUsers["root"], 2, 2)
	for range 2 {
		m.killKeeper()
		m.check(m.run("./lab --", m.probe, "cookie"), "ok LAB")
	}
	if sum := l.end(); sum.other != 0 || sum.nodev != 0 {
		t.Errorf("calls failed without a keeper: %+v", sum)
	}
	a := m.startAsked(runUsers["root"], "./lab --")
	m.killKeeper()
	m.Kill()
	a.is("ENODEV")
	m.Start()
	a.is("ok LAB")
}

// Without daemon and keeper nobody answers: every call fails, for good.
func TestRunBothKilled(t *testing.T) {
	m := newRunMount(t, "", "the keeper ended")
	l := m.startLoad(runUsers["root"], 2, 3)
	a := m.startAsked(runUsers["user"], "./lab --")
	time.Sleep(50 * time.Millisecond)
	if err := syscall.Kill(m.Keeper(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.Kill()
	if err := syscall.Kill(m.Keeper(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.is("ENOSYS")
	m.Start()
	a.is("ENOSYS")
	m.check(m.run("./lab --", m.probe, "cookie"), "ok LAB")
	sum := l.end()
	if sum.other == 0 || sum.errno != "ENOSYS" {
		t.Errorf("got %+v, want ENOSYS", sum)
	}
}

// What fails before the program starts, keeps it from starting.
func TestRunFailsClosed(t *testing.T) {
	m := newRunMount(t, "")
	dir := TempDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	proof := filepath.Join(dir, "started")
	program := []string{"touch", proof}
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			m.fails(as(m.run("./nothing --", program...)), 125, "no such file")
			m.fails(as(m.run("./ctl --", program...)), 125, "stack")
			m.fails(as(m.run("/ --", program...)), 125, "no stack")
			m.fails(as(m.run("/nowhere --", program...)), 125, "no such file")
			m.fails(as(m.run("--no-such-flag ./lab --", program...)), 125, "no-such-flag")
			m.fails(as(m.run("./lab")), 125, "COMMAND")
			m.fails(as(m.run("--no-seccomp ./lab --", program...)), 125, "--preload")
			foreign := as(m.run("./lab --", program...))
			foreign.Args = append([]string{m.probe, "foreign", m.bin}, foreign.Args[1:]...)
			foreign.Path = m.probe
			m.fails(foreign, 125, "another program supervises this one")
		})
	}
	m.fails(runUsers["user"](m.run("./priv --", program...)), 125, "does not let you")
	m.check(m.run("./priv --", m.probe, "listener"), "EBUSY")
	m.Kill()
	m.fails(m.run("./lab --", program...), 125, "open the stack")
	WaitFor(t, 10*time.Second, "the dead mount is detached", func() bool { return len(mountsBelow(t, m.Dir)) == 0 })
	m.fails(m.run("./lab --", program...), 125, "no such file")
	if exists(proof) {
		t.Error("a program was started")
	}
	m.Start()
	RunCmd(t, m.run("./lab --", program...))
	if !exists(proof) {
		t.Error("the program does not do what it should")
	}
}

// A stack that is removed under its programs gives them no socket, and one
// of the same name that comes later neither.
func TestRunStackRemoved(t *testing.T) {
	m := newRunMount(t, "", "the stack of a run is gone")
	m.MustCtl(`add tmp { mode = "0755" }`)
	a := m.startAsked(runUsers["root"], "./tmp --")
	b := m.startAsked(runUsers["root"], "./lab -- "+m.bin+" run "+m.Path("tmp")+" --")
	if got := a.ask(); !strings.HasPrefix(got, "ok ") || got == "ok HOST" {
		t.Errorf("got %q", got)
	}
	m.MustCtl("remove tmp force")
	a.is("ENODEV")
	b.is("ENODEV")
	m.MustCtl(`add tmp { mode = "0755" }`)
	a.is("ENODEV")
	b.is("ENODEV")
	m.Kill()
	m.Start()
	a.is("ENODEV")
	b.is("ENODEV")
}

// A program that is killed in the middle of a call leaves nothing in the
// daemon; Mount compares its descriptors at the end.
func TestRunProgramKilled(t *testing.T) {
	m := newRunMount(t, "")
	for range Scale(20) {
		cmd := m.run("./lab --", m.probe, "load", "2", "3", m.host)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10+rand.IntN(20)) * time.Millisecond)
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		stdin.Close()
	}
	m.noRuns()
}

// shimLibrary builds libmsocket beside the binary under test.
func shimLibrary(t testing.TB) {
	t.Helper()
	Require(t, Program("make"), Compiler)
	if os.Getenv("STACKFS_BIN") == "" {
		Run(t, 2*time.Minute, "make", "-s", "-C", "../stacknode/shim", "all")
	}
}

// --preload comes on top of the filter, or instead of it.
func TestRunPreload(t *testing.T) {
	shimLibrary(t)
	m := newRunMount(t, "")
	static := cProgram(t, "run", "static")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			m.check(as(m.run("--preload ./lab --", m.probe, "cookie")), "ok LAB")
			m.check(as(m.run("--preload ./lab --", static, "cookie")), "ok LAB")
			m.check(as(m.run("--preload ./lab --", m.probe, "cookie", "40")), "EAFNOSUPPORT")
			m.check(as(m.run("--preload --no-seccomp ./lab --", m.probe, "cookie")), "ok LAB")
			m.check(as(m.run("--preload --no-seccomp -f ipv6 ./lab --", m.probe, "cookie")), "ok HOST")
			m.check(as(m.run("--preload --no-seccomp ./null --", m.probe, "cookie")), "EAFNOSUPPORT")
			m.check(as(m.run("--preload --no-seccomp ./lab --", m.probe, "listener")), "ok")
			m.fails(as(m.run("--preload --no-seccomp ./lab --", static, "cookie")), 126, "static")
			m.fails(as(m.run("--preload --no-seccomp ./nothing --", m.probe, "cookie")), 125, "no such file")
			// A script is what its interpreter is.
			script := filepath.Join(TempDir(t), "script")
			if err := os.WriteFile(script, []byte("#!"+static+" args\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			m.fails(as(m.run("--preload --no-seccomp ./lab --", script)), 126, "static")
			if compiler(t, "-m32") == nil {
				m.fails(as(m.run("--preload --no-seccomp ./lab --", cProgram(t, "run", "32"), "cookie")), 126, "ELF")
			}
		})
	}
}
