package fstests

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/netns"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

const isolatedEnv = "STACKFS_TEST_ISOLATED"

// The main goroutine keeps the first thread, as in the daemon: no worker's
// thread is that one, which stays for as long as the process.
func init() { runtime.LockOSThread() }

// isolated runs fn in a process that has a mount and a network namespace of
// its own, with an empty /run, so that the test sees and leaves nothing of
// the machine. It needs root.
func isolated(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	if os.Getenv(isolatedEnv) == t.Name() {
		mustDo(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		mustDo(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
		fn(t)
		return
	}
	Require(t, Root, NetAdmin, Program("ip"), Program("ss"), Program("ping"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=50s")
	cmd.Env = append(os.Environ(), isolatedEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in namespaces of its own: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// netnsEnv is the environment of netns stacks whose logs go to the test.
func netnsEnv(t *testing.T) netns.Env {
	log := slog.New(slog.NewTextHandler(netnsLogWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return netns.Env{RunDir: "/run/stackfs/test", Log: log, Worker: worker.Env{Log: log}}
}

type netnsLogWriter struct{ t *testing.T }

func (w netnsLogWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// newNetns makes a backend, closed and destroyed with the test.
func newNetns(t *testing.T, env netns.Env, name string, opts stacknode.NetnsSpec) stacknode.Backend {
	t.Helper()
	b, err := netns.New(netnsSpec(name, opts), env)
	if err != nil {
		t.Fatalf("netns.New(%s): %v", name, err)
	}
	t.Cleanup(func() { endNetns(t, b) })
	return b
}

func netnsSpec(name string, opts stacknode.NetnsSpec) stacknode.Spec {
	return stacknode.Spec{Name: name, Kind: stacknode.KindNetns, Mode: 0o666, Netns: opts}
}

// endNetns closes a backend and destroys what it made. Twice is as once.
func endNetns(t *testing.T, b stacknode.Backend) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if d, ok := b.(stacknode.Destroyer); ok {
		if err := d.Destroy(); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
}

// inNetns runs a command in the namespace of b and returns its output.
func inNetns(t *testing.T, b stacknode.Backend, args ...string) string {
	t.Helper()
	return mustCommand(t, append([]string{"nsenter", "--net=" + nsPath(t, b)}, args...)...)
}

// nsPath finds a path to the namespace of b below /run.
func nsPath(t *testing.T, b stacknode.Backend) string {
	t.Helper()
	want, _ := b.(stacknode.NetNamespace).NetNS()
	for _, dir := range []string{"/run/netns/", "/run/stackfs/test/ns/"} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			var st unix.Stat_t
			if unix.Stat(dir+e.Name(), &st) == nil && st.Ino == want.Ino {
				return dir + e.Name()
			}
		}
	}
	t.Fatalf("no path to net:[%d]", want.Ino)
	return ""
}

func mustCommand(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryCommand(args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryCommand(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits up to limit for ok, looking every 5 ms.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
