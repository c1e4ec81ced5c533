package fstests

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const shimBuildDir = "../build/shimtest"

// shimNeed ends the test unless ok: as a failure where STACKFS_STRICT=1.
func shimNeed(tb testing.TB, ok bool, what string) {
	tb.Helper()
	if ok {
		return
	}
	if os.Getenv("STACKFS_STRICT") == "1" {
		tb.Fatal("needs " + what)
	}
	tb.Skip("needs " + what)
}

// shimBuild builds the daemon, libmsocket and its test programs once.
var shimBuild = sync.OnceValue(func() error {
	for _, args := range [][]string{
		{"make", "-s", "-C", "../stacknode/shim", "test"},
		// With cgo the Go runtime cannot drop capabilities in all threads.
		{"env", "CGO_ENABLED=0", "go", "build", "-o", shimBuildDir + "/stackfs", "../cmd/stackfs"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
})

// A shimMount is a mount for one test, with the stacks
//
//	kernel, null  0755
//	lab           0700, the network namespace ns
//	shared        0755, the same one; uid 12345 has a grant for raw sockets
type shimMount struct {
	dir  string
	lab  string // path of the stack lab
	ns   string // name of its namespace
	host string // cookies of the namespaces
	net  string

	config string
	cmd    *exec.Cmd
	ended  chan error // what cmd.Wait returned
}

func newShimMount(tb testing.TB) *shimMount {
	tb.Helper()
	shimNeed(tb, os.Geteuid() == 0, "root")
	_, err := os.Stat("/dev/fuse")
	shimNeed(tb, err == nil, "/dev/fuse")
	for _, tool := range []string{"make", "cc", "ip"} {
		_, err := exec.LookPath(tool)
		shimNeed(tb, err == nil, tool)
	}
	if err := shimBuild(); err != nil {
		tb.Fatal(err)
	}

	m := &shimMount{dir: filepath.Join(tb.TempDir(), "net")}
	m.lab = filepath.Join(m.dir, "lab")
	m.ns = fmt.Sprintf("sfshim-%d-%d", os.Getpid(), time.Now().UnixNano())
	// Other users of the test directory come in by the mount.
	for dir := m.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	shimCommand(tb, "ip", "netns", "add", m.ns)
	tb.Cleanup(func() { shimCommand(tb, "ip", "netns", "del", m.ns) })
	m.host = shimCookie(tb, shimCommand(tb, shimBuildDir+"/probe", "socket", "2", "1", "0"))
	m.net = shimCookie(tb, shimCommand(tb, "ip", "netns", "exec", m.ns, shimBuildDir+"/probe", "socket", "2", "1", "0"))

	m.config = filepath.Join(tb.TempDir(), "stackfs.toml")
	text := fmt.Sprintf(`discover = false
[stack.lab]
netns = %[1]q
mode = "0700"
[stack.shared]
netns = %[1]q
mode = "0755"
grant = [{ users = [12345], allow = ["raw"] }]
`, m.ns)
	if err := os.WriteFile(m.config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if m.cmd == nil { // killed: its next start and end clean up
			m.start(tb)
		}
		m.stop(tb)
	})
	m.start(tb)
	return m
}

// start returns when the mount can be used.
func (m *shimMount) start(tb testing.TB) {
	tb.Helper()
	notify := filepath.Join(filepath.Dir(m.config), "notify")
	os.Remove(notify)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	log, err := os.OpenFile(filepath.Join(filepath.Dir(m.config), "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()

	m.cmd = exec.Command(shimBuildDir+"/stackfs", "mount", "-f", "-c", m.config, m.dir)
	m.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	m.cmd.Stderr = log
	if err := m.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	m.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) {
		ended <- cmd.Wait()
		conn.SetReadDeadline(time.Unix(1, 0))
	}(m.cmd, m.ended)
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "READY=1") {
		text, _ := os.ReadFile(log.Name())
		tb.Fatalf("stackfs mount: not ready (%q, %v)\n%s", buf[:n], err, text)
	}
}

// kill ends the daemon in the hard way and waits until it is gone.
func (m *shimMount) kill(tb testing.TB) {
	tb.Helper()
	if err := m.cmd.Process.Kill(); err != nil {
		tb.Fatal(err)
	}
	<-m.ended
	m.cmd = nil
}

// mounted tells whether there is a mount on dir, without touching it.
func (m *shimMount) mounted() bool {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Contains(string(text), " "+m.dir+" ")
}

func (m *shimMount) stop(tb testing.TB) {
	if m.cmd != nil {
		m.cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-m.ended:
		case <-time.After(20 * time.Second):
			m.cmd.Process.Kill()
			<-m.ended
			tb.Error("the daemon did not end")
		}
		m.cmd = nil
	}
	for m.mounted() {
		if unix.Unmount(m.dir, unix.MNT_DETACH) != nil {
			break
		}
	}
}

// shimCommand runs a command that must succeed.
func shimCommand(tb testing.TB, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var shimCookieRE = regexp.MustCompile(`netns=(\d+)`)

func shimCookie(tb testing.TB, line string) string {
	tb.Helper()
	found := shimCookieRE.FindStringSubmatch(line)
	if found == nil {
		tb.Fatalf("no socket: %q", line)
	}
	return found[1]
}

// A shimSituation is a way in which a program comes to use the library.
type shimSituation struct {
	name    string
	program string
	preload bool
	prefix  []string // words in front of the probe's commands
}

var (
	shimLinked    = shimSituation{name: "linked", program: "probe-linked"}
	shimPreloaded = shimSituation{name: "preloaded", program: "probe", preload: true}

	shimSituations = []shimSituation{
		shimLinked, shimPreloaded,
		{name: "constructor-linked", program: "probe-ctor-linked"},
		{name: "constructor-preloaded", program: "probe-ctor", preload: true},
		{name: "fork", program: "probe-linked", prefix: []string{"fork", ","}},
		{name: "raw-fork", program: "probe", preload: true, prefix: []string{"raw-fork", ","}},
		{name: "alarms", program: "probe-linked", prefix: []string{"alarms", ","}},
	}
)

func shimAbs(tb testing.TB, path string) string {
	tb.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		tb.Fatal(err)
	}
	return abs
}

// command is the probe with these commands, words separated by spaces, not
// started. A word of the form 'a b' in single quotes is one.
func (s shimSituation) command(tb testing.TB, ctx context.Context, env []string, commands ...string) *exec.Cmd {
	tb.Helper()
	args := append([]string{}, s.prefix...)
	for i, c := range commands {
		if i > 0 {
			args = append(args, ",")
		}
		for j, part := range strings.Split(c, "'") {
			if j%2 == 1 {
				args = append(args, part)
			} else {
				args = append(args, strings.Fields(part)...)
			}
		}
	}
	cmd := exec.CommandContext(ctx, shimAbs(tb, filepath.Join(shimBuildDir, s.program)), args...)
	// At the timeout its children end with it, and do not hold the output.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
	if s.preload {
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+shimAbs(tb, "../build/libmsocket.so"))
	}
	return cmd
}

// run returns the lines that the probe prints.
func (s shimSituation) run(tb testing.TB, env []string, commands ...string) []string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := s.command(tb, ctx, env, commands...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", strings.Join(cmd.Args[1:], " "), err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// result is what a line says after its command.
func shimResult(line string) string {
	if i := strings.LastIndex(line, ": "); i >= 0 {
		return line[i+2:]
	}
	return line
}

// check runs the commands and compares the results: "ok", an errno, or for
// sockets "host" or "net" for the namespace that they must be in.
func (m *shimMount) check(t *testing.T, s shimSituation, steps ...[2]string) {
	t.Helper()
	m.checkEnv(t, s, nil, steps...)
}

func (m *shimMount) checkEnv(t *testing.T, s shimSituation, env []string, steps ...[2]string) {
	t.Helper()
	var commands, wants []string
	for _, step := range steps {
		commands = append(commands, step[0])
		if step[1] != "" {
			wants = append(wants, step[1])
		}
	}
	lines := s.run(t, env, commands...)
	if len(lines) != len(wants) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(wants), strings.Join(lines, "\n"))
	}
	for i, line := range lines {
		m.checkLine(t, line, wants[i])
	}
}

func (m *shimMount) checkLine(t *testing.T, line, want string) {
	t.Helper()
	got := shimResult(line)
	switch want {
	case "host":
		want = "ok netns=" + m.host + " "
	case "net":
		want = "ok netns=" + m.net + " "
	default:
		if got != want {
			t.Errorf("%s, want %s", line, want)
		}
		return
	}
	if !strings.HasPrefix(got, want) {
		t.Errorf("%s, want %s", line, want)
	}
	if !strings.HasSuffix(got, " errno=0") {
		t.Errorf("%s: errno was touched", line)
	}
}

// daemonFDs counts the descriptors of the daemon.
func (m *shimMount) daemonFDs(tb testing.TB) int {
	tb.Helper()
	list, err := os.ReadDir("/proc/" + strconv.Itoa(m.cmd.Process.Pid) + "/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(list)
}

// shimEventually waits until ok, at most for five seconds.
func shimEventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within five seconds: %s", what)
		}
	}
}

// shimSetXattr makes a directory look like a stack.
func shimSetXattr(dir string) error {
	return unix.Setxattr(dir, "user.stackfs.type", []byte("netns"), 0)
}
