package fstests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How long a daemon may take (scaled) to start, to stop, and to answer.
const (
	startTime  = 20 * time.Second
	stopTime   = 20 * time.Second
	answerTime = 20 * time.Second
)

// A Config says what Mount mounts.
type Config struct {
	// Stacks are network namespaces of their own, for root only.
	Stacks []string
	// TOML is the rest of the configuration.
	TOML string
	// Options are those of -o.
	Options []string
	// Discover shows named namespaces as stacks; they are the machine's.
	Discover bool
	// Dir is where to mount; by default an empty directory that all users
	// can reach.
	Dir string
	// AllowLog are texts that a line of level WARN or above may have.
	AllowLog []string
	// Env is added to the environment of the daemon.
	Env []string
}

// An M is a mount that a test made, with the daemon that serves it.
type M struct {
	Dir    string
	Config string // the configuration file

	t       testing.TB
	cfg     Config
	bin     string
	log     *logWatch
	before  leakState
	daemon  *process
	runDir  string // of the daemon, below /run/stackfs
	keepers []int
	stacks  map[string]bool // names that were seen
}

// A process is a daemon in the foreground.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed after Wait

	// As it was when it got ready.
	fds    map[string]int
	stacks int
}

// Mount starts the real program, which mounts a tree of stacks, and returns
// when it serves. With the test it is unmounted; whatever is then left of
// it fails the test, as do warnings in its log.
func Mount(t testing.TB, cfg Config) *M {
	t.Helper()
	m := &M{t: t, cfg: cfg, bin: Binary(t), Dir: cfg.Dir, stacks: map[string]bool{}}
	scratch := TempDir(t)
	if m.Dir == "" {
		m.Dir = filepath.Join(scratch, "net")
		if err := os.Mkdir(m.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.Config = filepath.Join(scratch, "stackfs.toml")
	m.WriteConfig(cfg.Stacks, cfg.TOML)
	m.log = newLogWatch(t, cfg.AllowLog)
	m.before = leakStateNow(t)
	t.Cleanup(m.cleanup)
	if err := m.TryStart(); err != nil {
		t.Fatalf("stackfs mount: %v\n%s", err, m.log.all())
	}
	return m
}

// WriteConfig replaces the configuration file, for a reload or a restart.
func (m *M) WriteConfig(stacks []string, toml string) {
	m.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "discover = %v\n", m.cfg.Discover)
	for _, name := range stacks {
		fmt.Fprintf(&b, "[stack.%q]\n", name)
	}
	b.WriteString(toml)
	if err := os.WriteFile(m.Config, []byte(b.String()), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// Start starts a daemon again after Kill or Stop, on the same directory.
func (m *M) Start() {
	m.t.Helper()
	if err := m.TryStart(); err != nil {
		m.t.Fatalf("stackfs mount: %v", err)
	}
}

// TryStart is Start for a daemon that may refuse: the error then has what
// it wrote.
func (m *M) TryStart() error {
	m.t.Helper()
	notify, err := newNotifySocket()
	if err != nil {
		return err
	}
	defer notify.Close()
	args := []string{"mount", "-f", "-c", m.Config}
	for _, o := range m.cfg.Options {
		args = append(args, "-o", o)
	}
	cmd := exec.Command(m.bin, append(args, m.Dir)...)
	cmd.Env = append(os.Environ(), m.cfg.Env...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notify.path)
	p, err := m.spawn(cmd)
	if err != nil {
		return err
	}
	if err := notify.ready(p.ended); err != nil {
		_ = cmd.Process.Kill()
		<-p.ended
		return err
	}
	m.daemon = p
	m.findKeeper()
	p.stacks = m.stackCount()
	p.fds = fdKinds(cmd.Process.Pid)
	return nil
}

// spawn starts cmd, with its standard error to the log. If the test
// program dies the daemon is told to end.
func (m *M) spawn(cmd *exec.Cmd) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig is about the thread that forked: it must stay.
		runtime.LockOSThread()
		err := cmd.Start()
		w.Close()
		started <- err
		if err != nil {
			r.Close()
			return
		}
		m.log.pump(r)
		r.Close()
		_ = cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// A notifySocket is where a daemon says that it is ready; see sd_notify(3).
type notifySocket struct {
	*net.UnixConn
	dir, path string
}

func newNotifySocket() (*notifySocket, error) {
	dir, err := os.MkdirTemp("", "stackfs-notify-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &notifySocket{conn, dir, path}, nil
}

func (n *notifySocket) Close() error {
	return errors.Join(n.UnixConn.Close(), os.RemoveAll(n.dir))
}

// ready returns when READY=1 has come, or an error when ended is closed.
func (n *notifySocket) ready(ended <-chan struct{}) error {
	got := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		for {
			k, err := n.Read(b)
			if err != nil || strings.Contains(string(b[:k]), "READY=1") {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		return err
	case <-ended:
		return errors.New("the daemon ended before it was ready")
	case <-time.After(ScaleTime(startTime)):
		return errors.New("the daemon does not get ready")
	}
}

// findKeeper learns from the keeper, a child of the daemon, where both keep
// their files.
func (m *M) findKeeper() {
	pid := m.PID()
	for _, child := range children(pid) {
		argv := cmdline(child)
		if len(argv) == 2 && argv[0] == "stackfs-keeper" {
			m.runDir = argv[1]
			m.keepers = append(m.keepers, child)
		}
	}
}

// PID returns the daemon's, 0 if none runs.
func (m *M) PID() int {
	if m.daemon == nil {
		return 0
	}
	return m.daemon.cmd.Process.Pid
}

// Keeper returns the process id of the daemon's keeper.
func (m *M) Keeper() int { return m.keepers[len(m.keepers)-1] }

// Kill ends the daemon by SIGKILL and waits for that.
func (m *M) Kill() {
	m.t.Helper()
	m.Signal(syscall.SIGKILL)
	m.Wait()
}

// Stop ends the daemon by SIGTERM and returns its exit code.
func (m *M) Stop() int {
	m.t.Helper()
	m.Signal(syscall.SIGTERM)
	return m.Wait()
}

// Signal sends the daemon a signal.
func (m *M) Signal(sig syscall.Signal) {
	m.t.Helper()
	if err := m.daemon.cmd.Process.Signal(sig); err != nil {
		m.t.Fatalf("signal the daemon: %v", err)
	}
}

// Pause stops the daemon where it is, until Resume or Kill.
func (m *M) Pause() {
	m.t.Helper()
	m.Signal(syscall.SIGSTOP)
	WaitFor(m.t, answerTime, "the daemon stops", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PID()))
		if err != nil {
			m.t.Fatal(err)
		}
		// "PID (NAME) STATE ..."; the name may have anything but its end.
		text := string(b)
		return strings.HasPrefix(text[strings.LastIndex(text, ")")+1:], " T")
	})
}

// Resume lets a daemon go on that Pause stopped.
func (m *M) Resume() {
	m.t.Helper()
	m.Signal(syscall.SIGCONT)
}

// Wait returns the exit code of a daemon that ends, -1 for a signal. One
// that does not end in time is killed, and its goroutines go to the log.
func (m *M) Wait() int {
	m.t.Helper()
	p := m.daemon
	m.daemon = nil
	select {
	case <-p.ended:
	case <-time.After(ScaleTime(stopTime)):
		m.t.Errorf("the daemon does not end")
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-p.ended:
		case <-time.After(2 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	}
	return p.cmd.ProcessState.ExitCode()
}

// Path returns the path of something in the mount.
func (m *M) Path(names ...string) string {
	return filepath.Join(append([]string{m.Dir}, names...)...)
}

// Ctl writes one order to the file ctl and returns the answer and the error
// of the write.
func (m *M) Ctl(line string) (answer string, err error) {
	m.t.Helper()
	err = Within(m.t, answerTime, "ctl: "+line, func() error {
		f, err := os.OpenFile(m.Path("ctl"), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, werr := f.WriteString(line + "\n")
		b, rerr := io.ReadAll(f)
		answer = string(b)
		return errors.Join(werr, rerr)
	})
	return answer, err
}

// MustCtl is Ctl for an order that is to be carried out.
func (m *M) MustCtl(line string) {
	m.t.Helper()
	if answer, err := m.Ctl(line); err != nil || answer != "ok\n" {
		m.t.Fatalf("ctl %q: got %q, %v, want ok", line, answer, err)
	}
}

// Read returns the contents of a file in the mount.
func (m *M) Read(names ...string) string {
	m.t.Helper()
	var b []byte
	err := Within(m.t, answerTime, "read "+m.Path(names...), func() (err error) {
		b, err = os.ReadFile(m.Path(names...))
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// Status returns the lines of a stack's status file.
func (m *M) Status(stack string) map[string]string {
	m.t.Helper()
	lines := map[string]string{}
	for line := range strings.Lines(m.Read(stack, "status")) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		lines[key] = value
	}
	return lines
}

// Command prepares "stackfs args...".
func (m *M) Command(args ...string) *exec.Cmd {
	m.t.Helper()
	return Command(m.t, answerTime, m.bin, args...)
}

// Log returns what the daemons of this mount have logged.
func (m *M) Log() string { return m.log.all() }

// cleanup ends the mount and looks for what is left of it. A daemon that
// the test killed is started once more: cleaning up after it is its heir's
// task.
func (m *M) cleanup() {
	t := m.t
	if m.daemon != nil {
		select {
		case <-m.daemon.ended:
			if code := m.Wait(); code != 0 {
				t.Errorf("the daemon ended by itself with exit code %d", code)
			}
		default:
		}
	}
	if m.daemon == nil && m.runDir != "" && exists(m.runDir) {
		if err := m.TryStart(); err != nil {
			t.Errorf("start a daemon to clean up: %v", err)
		}
	}
	if m.daemon != nil {
		m.checkFDs()
		if answer, err := m.Ctl("umount"); err != nil {
			t.Errorf("umount: %q, %v", answer, err)
			_ = m.daemon.cmd.Process.Signal(syscall.SIGTERM)
		}
		if code := m.Wait(); code != 0 {
			t.Errorf("the daemon ended with exit code %d, want 0", code)
		}
	}
	m.checkLeaks()
	for len(mountsBelow(t, m.Dir)) > 0 {
		if err := unix.Unmount(m.Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			t.Errorf("umount %s: %v", m.Dir, err)
			break
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
