package fstests

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Ctrl-C, Ctrl-Z and fg reach the program once, and the shell sees what
// became of it.
func TestRunOnATerminal(t *testing.T) {
	Require(t, Program("bash"))
	m := newRunMount(t, "")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			shell := as(Command(t, 2*runTime, "bash", "--norc", "--noprofile", "-i"))
			shell.Env = append(os.Environ(), "PS1=$ ", "HISTFILE=")
			shell.Dir = "/"
			term := onTerminal(t, shell)
			run := m.bin + " run " + m.Path("lab") + " -- "
			term.send("stty -echo; echo be''gin\n")
			term.expect("begin")

			// A program that counts its signals.
			term.send(run + "bash -c 'trap \"echo got-i\"\"nt\" INT; echo re\"\"ady; while :; do sleep 0.1; done'\n")
			term.expect("ready")
			term.send("\x03")
			term.expect("got-int")
			term.send("\x03")
			term.expect("got-int")
			term.send("\x1a")
			term.expect("Stopped")
			term.send("kill -9 %1; sleep 0.1; :\n")
			term.expect("Killed")
			if n := term.count("got-int"); n != 2 {
				t.Errorf("two times Ctrl-C came as %d signals", n)
			}

			term.send(run + "sleep 100\n")
			m.waitProgram(t, "sleep", "100")
			term.send("\x03")
			term.send("echo code=$?\n")
			term.expect("code=130")

			for range Scale(5) {
				term.send(run + "cat\n")
				term.send("one\n")
				term.expect("one")
				term.send("\x1a")
				term.expect("Stopped")
				// The shell sees that the run has stopped; the program may
				// have to be scheduled for that and would read what comes.
				time.Sleep(ScaleTime(200 * time.Millisecond))
				term.send("fg\n")
				term.send("two\n")
				term.expect("two")
				term.send("\x04")
				term.send("echo code=$?\n")
				term.expect("code=0")
			}
			// A program that stops itself.
			term.send(run + "sh -c 'kill -STOP $$; exit 9'\n")
			term.expect("Stopped")
			term.send("fg; echo code=$?\n")
			term.expect("code=9")
			// In the background, reading from the terminal.
			term.send(run + "cat &\n")
			term.send("sleep 0.7; jobs\n")
			term.expect("Stopped")
			term.send("kill %1; sleep 0.1; :\n")
			term.expect("Terminated")
			term.send("exit 5\n")
			if err := shell.Wait(); shell.ProcessState.ExitCode() != 5 {
				t.Errorf("the shell: %v", err)
			}
		})
	}
}

// waitProgram waits until a program of these words runs and returns its
// process id.
func (m *runMount) waitProgram(t testing.TB, words ...string) (pid int) {
	t.Helper()
	WaitFor(t, 20*time.Second, strings.Join(words, " ")+" runs", func() bool {
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			n, _ := strconv.Atoi(filepath.Base(dir))
			if slices.Equal(cmdline(n), words) {
				pid = n
				return true
			}
		}
		return false
	})
	return pid
}

// The exit code and the signal of the end are the program's.
func TestRunExitStatus(t *testing.T) {
	m := newRunMount(t, "")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			for _, code := range []int{0, 1, 42, 125, 126, 127, 255} {
				cmd := as(m.run("./lab --", "sh", "-c", fmt.Sprint("exit ", code)))
				if _, stderr, got := Output(t, cmd); got != code || stderr != "" {
					t.Errorf("exit code %d: got %d, %q", code, got, stderr)
				}
			}
			for _, sig := range []syscall.Signal{
				syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGILL, syscall.SIGABRT, syscall.SIGKILL,
				syscall.SIGSEGV, syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGPROF,
				syscall.SIGURG + 100, 40,
			} {
				if sig > 64 {
					continue
				}
				cmd := as(m.run("./lab --", "sh", "-c", fmt.Sprintf("ulimit -c 0; kill -%d $$; sleep 10", sig)))
				out, _ := cmd.CombinedOutput()
				if st := cmd.ProcessState.Sys().(syscall.WaitStatus); !st.Signaled() || st.Signal() != sig || len(out) > 0 {
					t.Errorf("ended by %v: got %v, %q", sig, cmd.ProcessState, out)
				}
			}
			m.fails(as(m.run("./lab -- /etc/passwd")), 126, "permission denied")
			m.fails(as(m.run("./lab -- /etc")), 126, "/etc")
			m.fails(as(m.run("./lab -- no-such-program")), 127, "no-such-program")
			m.fails(as(m.run("./lab -- ./no-such-program")), 127, "no-such-program")
			bad := filepath.Join(TempDir(t), "script")
			if err := os.WriteFile(bad, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			m.fails(as(m.run("./lab --", bad)), 127, "script")
		})
	}
}

// Signals for the run are signals for the program.
func TestRunPassesSignals(t *testing.T) {
	m := newRunMount(t, "")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			cmd := as(m.run("./lab --", "sh", "-c", `
				trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo int' INT
				trap 'echo term; exit 3' TERM
				echo $$; while :; do sleep 0.05; done`))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			next := func() string {
				if !lines.Scan() {
					t.Fatal("the program ended")
				}
				return lines.Text()
			}
			program, err := strconv.Atoi(next())
			if err != nil {
				t.Fatal(err)
			}
			if root := program == cmd.Process.Pid; root != (name == "root") {
				t.Errorf("the program is process %d, stackfs run is %d", program, cmd.Process.Pid)
			}
			for _, c := range []struct {
				sig  syscall.Signal
				want string
			}{{syscall.SIGHUP, "hup"}, {syscall.SIGUSR1, "usr1"}, {syscall.SIGUSR2, "usr2"}, {syscall.SIGINT, "int"}} {
				if err := cmd.Process.Signal(c.sig); err != nil {
					t.Fatal(err)
				}
				if got := next(); got != c.want {
					t.Errorf("%v: got %q, want %q", c.sig, got, c.want)
				}
			}
			// Stopped and continued by somebody else.
			for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT, syscall.SIGUSR1} {
				if err := syscall.Kill(program, sig); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			if got := next(); got != "usr1" {
				t.Errorf("after SIGSTOP and SIGCONT: got %q", got)
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if got := next(); got != "term" {
				t.Errorf("SIGTERM: got %q", got)
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
				t.Errorf("SIGTERM: %v", err)
			}
		})
	}
}

// Environment, directory, arguments and descriptors are the caller's.
func TestRunKeepsTheEnvironment(t *testing.T) {
	m := newRunMount(t, "")
	dir := TempDir(t)
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			cmd := as(m.run("./lab -- env"))
			cmd.Env = []string{"PATH=/usr/bin:/bin", "A=1", "EMPTY=", "A=2", "MULTI=x\ny", "STACKFS_RUN=old"}
			want := "PATH=/usr/bin:/bin\nA=1\nEMPTY=\nA=2\nMULTI=x\ny\nSTACKFS_RUN=" + m.Path("lab") + "\n"
			if got := RunCmd(t, cmd); sorted(got) != sorted(want) && sorted(got) != sorted(strings.Replace(want, "A=1\n", "", 1)) {
				t.Errorf("environment: got %q, want %q", got, want)
			}
			cmd = as(m.run("./lab -- pwd"))
			cmd.Dir = dir
			m.check(cmd, dir)
			m.check(as(m.run("./lab --", m.probe, "args", "", "a b", "--", "-f", "\xff")), "args\n\na b\n--\n-f\n\xff")
			// The name is as it was typed.
			cmd = as(m.run("./lab --", "run", "args"))
			cmd.Env = []string{"PATH=" + filepath.Dir(m.probe)}
			m.check(cmd, "args")
			m.check(as(m.run("./lab -- sh -c", `echo "$0"`)), "sh")

			cmd = as(m.run("./lab --", m.probe, "fds"))
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			plain := as(Command(t, runTime, m.probe, "fds"))
			plain.ExtraFiles = []*os.File{r, w, nil, r, w, r, w, r, w, r}
			cmd.ExtraFiles = plain.ExtraFiles
			if want, got := RunCmd(t, plain), RunCmd(t, cmd); got != want || !strings.HasPrefix(got, "0 1 2 3 4 6 7 8 9 10 11 12 ") {
				t.Errorf("descriptors: got %q, want %q", got, want)
			}
		})
	}
}

// Rights, limits and signals are those that the program had without us.
func TestRunKeepsTheProcess(t *testing.T) {
	m := newRunMount(t, "")
	look := []string{"sh", "-c", `ulimit -n; ulimit -c; umask; nice; ps -o pgid= -p $$
		grep -E '^(Uid|Gid|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Sig(Blk|Ign)|Cpus_allowed):' /proc/self/status`}
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			wrap := func(words ...string) *exec.Cmd {
				// dash ignores the signals, bash would forget some.
				script := `ulimit -Sn 123; umask 027; trap '' HUP INT; exec nice -n 3 "$@"`
				return as(Command(t, runTime, "sh", append([]string{"-c", script, "x"}, words...)...))
			}
			group := regexp.MustCompile(`(?m)^ *\d+$`) // the process group, of a command of its own
			plain := RunCmd(t, wrap(look...))
			ours := RunCmd(t, wrap(append([]string{m.bin, "run", m.Path("lab"), "--"}, look...)...))
			if want, got := group.ReplaceAllString(plain, "N"), group.ReplaceAllString(ours, "N"); got != want || !strings.Contains(plain, "123\n") {
				t.Errorf("got\n%s\nwant\n%s", ours, plain)
			}
			m.check(wrap(m.bin, "run", m.Path("lab"), "--", "sh", "-c", "kill -HUP $$; kill -INT $$; echo alive"), "alive")
		})
	}
}

// A run that is killed is no more, and neither is its program.
func TestRunKilled(t *testing.T) {
	m := newRunMount(t, "")
	for name, as := range runUsers {
		t.Run(name, func(t *testing.T) {
			cmd := as(m.run("./lab --", "sh", "-c", "echo $$; exec sleep 100"))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var program int
			if _, err := fmt.Fscan(out, &program); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			WaitFor(t, 20*time.Second, "the program ends", func() bool { return syscall.Kill(program, 0) != nil })
		})
	}
}

func sorted(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A helper with another user's rights stays on the stack. An ordinary user
// gains nothing by one, since his program is in a user namespace.
func TestRunSetID(t *testing.T) {
	m := newRunMount(t, "")
	dir := TempDir(t)
	id := filepath.Join(dir, "setid")
	copyProgram(t, m.probe, id)
	idBin := filepath.Join(dir, "id")
	path, err := exec.LookPath("id")
	if err != nil {
		t.Fatal(err)
	}
	copyProgram(t, path, idBin)
	for _, owner := range []int{Nobody, 0} {
		for _, file := range []string{id, idBin} {
			if err := os.Chown(file, owner, owner); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, 0o755|os.ModeSetuid); err != nil {
				t.Fatal(err)
			}
		}
		m.check(m.run("./lab --", id, "cookie"), "ok LAB")
		m.check(m.run("./lab --", idBin, "-u"), fmt.Sprint(owner))
		m.check(runUsers["user"](m.run("./lab --", id, "cookie")), "ok LAB")
		m.check(runUsers["user"](m.run("./lab --", idBin, "-u")), fmt.Sprint(Nobody))
		m.fails(m.run("--preload --no-seccomp ./lab --", id, "cookie"), 126, "set-id")
	}
}

func copyProgram(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}
