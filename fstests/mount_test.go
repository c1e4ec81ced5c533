package fstests

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/msocket"
)

// mountFails runs "stackfs mount -f" that is to refuse, and returns what it
// says and its exit code.
func mountFails(t *testing.T, args ...string) (stderr string, code int) {
	t.Helper()
	cmd := Command(t, startTime, Binary(t), append([]string{"mount", "-f", "-c", "none", "-o", "nodiscover"}, args...)...)
	stdout, stderr, code := Output(t, cmd)
	if code == 0 || stdout != "" {
		t.Errorf("mount %v: exit code %d, %q, want an error", args, code, stdout)
	}
	return stderr, code
}

func TestMountTwiceIsBusy(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{})
	stderr, code := mountFails(t, m.Dir)
	if code != 4 || !strings.Contains(stderr, m.Dir) || !strings.Contains(stderr, "stackfs umount "+m.Dir) {
		t.Errorf("exit code %d, %q, want 4 and the way out", code, stderr)
	}
	if got := m.Read("kernel", "type"); got != "kernel\n" {
		t.Errorf("the first mount after that: %q", got)
	}
	if left := mountsBelow(t, m.Dir); len(left) != 1 {
		t.Errorf("mounts: %q, want one", left)
	}
}

func TestMountOnWrongDirectory(t *testing.T) {
	Require(t, treeNeeds...)
	dir := TempDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		code int
		text string
	}{
		filepath.Join(dir, "none"): {5, "mkdir -p " + filepath.Join(dir, "none")},
		file:                       {1, "not a directory"},
	} {
		stderr, code := mountFails(t, path)
		if code != want.code || !strings.Contains(stderr, want.text) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d, %q, want %d and %q in one line", path, code, stderr, want.code, want.text)
		}
	}
	if left := mountsBelow(t, dir); len(left) > 0 {
		t.Errorf("mounts left: %q", left)
	}
}

func TestMountNeedsRoot(t *testing.T) {
	Require(t, treeNeeds...)
	dir := TempDir(t)
	cmd := AsUser(Command(t, startTime, Binary(t), "mount", "-f", "-c", "none", dir), Nobody, Nobody)
	_, stderr, code := Output(t, cmd)
	if code != 6 || !strings.Contains(stderr, "only root can mount") {
		t.Errorf("exit code %d, %q, want 6 and the reason", code, stderr)
	}
}

func TestMountWithBrokenConfiguration(t *testing.T) {
	Require(t, treeNeeds...)
	dir := TempDir(t)
	file := filepath.Join(dir, "stackfs.toml")
	if err := os.WriteFile(file, []byte("[stack.ok]\n[stack.lab]\nnetns = \"a\"\npid = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	stderr, code := mountFails(t, "-c", file, dir)
	if code != 3 || !strings.Contains(stderr, file+":") {
		t.Errorf("exit code %d, %q, want 3 and the place", code, stderr)
	}
	if err := os.WriteFile(file, []byte("discover = false\n[stack.ok]\n[stack.lab]\nnetns = \"no-such-namespace\"\ncreate = false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	stderr, code = mountFails(t, "-c", file, dir)
	if !strings.Contains(stderr, "no-such-namespace") {
		t.Errorf("exit code %d, %q, want the name of the namespace", code, stderr)
	}
	// What was made for the first stack is gone again.
	key := strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-")
	if left, err := filepath.Glob("/run/stackfs/" + key + "*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestMountInBackground(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{}) // for its configuration and checks
	if code := m.Stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	log := filepath.Join(filepath.Dir(m.Dir), "log")
	RunCmd(t, m.Command("mount", "-c", m.Config, "--log", log, m.Dir))
	if got := m.Read("kernel", "type"); got != "kernel\n" {
		t.Errorf("type: got %q", got)
	}
	RunCmd(t, m.Command("umount", m.Dir))
	if left := mountsBelow(t, m.Dir); len(left) > 0 {
		t.Errorf("mounts left: %q", left)
	}
	WaitFor(t, 5*time.Second, "the daemon ends", func() bool { return len(m.processes()) == 0 })
	if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), "msg=mounted") || strings.Contains(string(b), "level=WARN") {
		t.Errorf("log: %v\n%s", err, b)
	}
}

func TestSignalsEndTheDaemon(t *testing.T) {
	Require(t, treeNeeds...)
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			m := Mount(t, Config{Stacks: []string{"lab"}})
			m.Signal(sig)
			if code := m.Wait(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			if left := mountsBelow(t, m.Dir); len(left) > 0 {
				t.Errorf("mounts left: %q", left)
			}
		})
	}
}

// TestSecondSignalForces: a daemon that does not get to its end is ended by
// a second signal. What it leaves its heir cleans up.
func TestSecondSignalForces(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"lab"}})
	m.Pause()
	m.Signal(unix.SIGTERM)
	m.Signal(unix.SIGINT)
	m.Resume()
	m.Wait()
	WaitFor(t, 3*time.Second, "nothing is mounted", func() bool { return len(mountsBelow(t, m.Dir)) == 0 })
}

func TestUmountByUmount(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"lab"}})
	if err := Within(t, answerTime, "umount", func() error { return unix.Unmount(m.Dir, 0) }); err != nil {
		t.Fatal(err)
	}
	if code := m.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestUmountWithOpenFile: who has a file of the tree open does not keep the
// daemon from ending.
func TestUmountWithOpenFile(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{})
	f, err := os.Open(m.Path("kernel", "status"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.MustCtl("umount")
	if code := m.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if n, err := f.Read(make([]byte, 10)); err == nil {
		t.Errorf("read after umount: %d bytes, want an error", n)
	}
}

func TestUmountKeep(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"lab"}})
	if err := os.Mkdir(m.Path("made"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := mustSocketIn(t, m, "lab")
	cookies := map[string]string{"lab": m.Status("lab")["netns_cookie"], "made": m.Status("made")["netns_cookie"]}
	m.MustCtl("umount keep")
	if code := m.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if got := netnsCookieOf(t, s); got != cookies["lab"] {
		t.Errorf("a socket after umount: namespace %s, want %s", got, cookies["lab"])
	}
	s.Close()
	m.Start()
	for stack, want := range cookies {
		if got := m.Status(stack)["netns_cookie"]; got != want {
			t.Errorf("%s: adopted namespace %s, want %s", stack, got, want)
		}
	}
}

func TestDaemonKilledAndStartedAgain(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"lab"}})
	lab, made := m.Path("lab"), m.Path("made")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(made, 0o700))
	must(os.Chmod(made, 0o751))
	must(os.Chown(made, 1701, 1702))
	must(os.Chmod(lab, 0o705))
	must(os.Chmod(m.Path("kernel"), 0o700))
	m.MustCtl(`add extra addresses = ["192.0.2.7/24"], sysctl = { net.ipv4.ip_unprivileged_port_start = 80 }`)
	m.MustCtl(`add gone`)
	m.MustCtl(`remove gone`)
	before := map[string]map[string]string{}
	for _, stack := range []string{"kernel", "lab", "made", "extra"} {
		before[stack] = m.Status(stack)
	}
	s := mustSocketIn(t, m, "made")
	dead := len(mountsBelow(t, m.Dir))

	m.Kill()
	if got := netnsCookieOf(t, s); got != before["made"]["netns_cookie"] {
		t.Errorf("a socket after the death of the daemon: namespace %s", got)
	}
	m.Start()
	if now := len(mountsBelow(t, m.Dir)); now != dead {
		t.Errorf("%d mounts at %s, want %d: the dead one is to go", now, m.Dir, dead)
	}
	if got, want := names(t, m.Dir), []string{"ctl", "extra", "fast", "kernel", "lab", "made", "null"}; !slices.Equal(got, want) {
		t.Errorf("entries: got %q, want %q", got, want)
	}
	for stack, was := range before {
		now := m.Status(stack)
		for _, key := range []string{"kind", "origin", "mode", "owner", "group", "netns_cookie"} {
			if now[key] != was[key] {
				t.Errorf("%s: %s: got %q, want %q", stack, key, now[key], was[key])
			}
		}
	}
	if got := modeOf(t, made); got != fs.ModeDir|0o751 {
		t.Errorf("made: mode %v", got)
	}
	f, err := msocket.Socket(m.Path("extra"), unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(int(f.Fd()), &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 7}}); err != nil {
		t.Errorf("extra lost its address: %v", err)
	}
	f.Close()
	if err := os.Remove(made); !errors.Is(err, unix.EBUSY) {
		t.Errorf("rmdir of an adopted stack in use: got %v, want EBUSY", err)
	}
	s.Close()
	msocket.CloseIdle()
	must(os.Remove(made))

	// Twice in a row.
	m.Kill()
	m.Start()
	if _, err := os.Lstat(made); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a stack that was removed is back: %v", err)
	}
	if got := modeOf(t, lab); got != fs.ModeDir|0o705 {
		t.Errorf("lab: mode %v, want drwx---r-x still", got)
	}
}

// TestDeadMountGoes: a directory that is mounted over works again soon
// after its daemon was killed, and the calls that waited have ended.
func TestDeadMountGoes(t *testing.T) {
	Require(t, treeNeeds...)
	dir := TempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := Mount(t, Config{Dir: dir})
	node, err := os.Open(m.Path("kernel"))
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	waiting := make(chan error, 1)
	m.Pause()
	go func() {
		_, err := os.ReadFile(m.Path("kernel", "status"))
		waiting <- err
	}()
	time.Sleep(50 * time.Millisecond) // on its way; one that is not is as good
	start := time.Now()
	m.Kill()
	select {
	case err := <-waiting:
		if err == nil {
			t.Error("a call in flight succeeded with no daemon")
		}
	case <-time.After(ScaleTime(time.Second)):
		t.Error("a call in flight hangs")
	}
	if !waitFor(time.Second-time.Since(start), func() bool { return len(mountsBelow(t, dir)) == 0 }) {
		t.Fatalf("the dead mount is still there %v after the death", time.Since(start))
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "text" {
		t.Errorf("the directory below: %q, %v", b, err)
	}
}

// TestDeadMountOfOthersStays: only the daemon's own mount is detached.
func TestDeadMountOfOthersStays(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{})
	over := m.Dir
	if err := unix.Mount("none", over, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	m.Kill()
	WaitFor(t, 5*time.Second, "the keeper ends", func() bool { return len(m.processes()) == 0 })
	if left := mountsBelow(t, over); len(left) != 2 {
		t.Errorf("mounts: %q, want the dead one below the tmpfs", left)
	}
	for range 2 {
		if err := unix.Unmount(over, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKeeperKilled: the daemon starts another, which then does its work.
func TestKeeperKilled(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{AllowLog: []string{"the keeper ended"}})
	first := m.Keeper()
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	WaitFor(t, 5*time.Second, "another keeper", func() bool {
		m.findKeeper()
		return m.Keeper() != first
	})
	m.Kill()
	WaitFor(t, 3*time.Second, "the dead mount goes", func() bool { return len(mountsBelow(t, m.Dir)) == 0 })
}

// TestDescriptorLimit: at its limit the daemon refuses and goes on.
func TestDescriptorLimit(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"lab"}, AllowLog: []string{"too many open files", "EMFILE"}})
	lab := m.Path("lab")
	t.Cleanup(msocket.CloseIdle)
	f, err := msocket.Socket(lab, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	var old unix.Rlimit
	if err := unix.Prlimit(m.PID(), unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: 6, Max: old.Max} // fewer than it has open
	if err := unix.Prlimit(m.PID(), unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 5 {
		if f, err := msocket.Socket(lab, unix.AF_NETLINK, unix.SOCK_RAW, 0); err == nil {
			f.Close()
		} else if !errors.Is(err, unix.EMFILE) {
			t.Errorf("at the limit: got %v, want EMFILE", err)
		} else {
			refused++
		}
	}
	if refused == 0 {
		t.Error("the limit was not reached")
	}
	if err := unix.Prlimit(m.PID(), unix.RLIMIT_NOFILE, &old, nil); err != nil {
		t.Fatal(err)
	}
	f, err = msocket.Socket(lab, unix.AF_NETLINK, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatalf("with descriptors again: %v", err)
	}
	f.Close()
}
