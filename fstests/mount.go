package fstests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	// NetNS is the namespace that the daemon is in, and its stacks kernel
	// and fast with it; nil: that of the test.
	NetNS *NS
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
	argv := append(append([]string{m.bin}, args...), m.Dir)
	if m.cfg.NetNS != nil {
		argv = append([]string{"nsenter", "--net=" + m.cfg.NetNS.Path(), "--"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
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
