package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stackfs/stackfs/fstests"
	"github.com/stackfs/stackfs/stacknode/launch"
)

// A cli is a machine on which command lines are run: its mounts, its users
// and what a command printed.
type cli struct {
	env
	t      testing.TB
	stdout bytes.Buffer
	stderr bytes.Buffer
	mounts []string // directories that stackfs is mounted on
	vars   map[string]string
}

func newCLI(t testing.TB) *cli {
	c := &cli{t: t, vars: map[string]string{}}
	c.env = env{
		stdin: strings.NewReader(""), stdout: &c.stdout, stderr: &c.stderr,
		getenv:     func(key string) string { return c.vars[key] },
		isTerminal: func(io.Writer) bool { return false },
		users:      testUsers{},
		mountinfo:  filepath.Join(t.TempDir(), "mountinfo"),
		proc:       t.TempDir(),
		config:     filepath.Join(t.TempDir(), "stackfs.toml"),
		patience:   fstests.ScaleTime(10 * time.Second),
		openCtl:    func(path string) (io.ReadWriteCloser, error) { return nil, fmt.Errorf("open %s in a test", path) },
		detach:     func(dir string) error { return fmt.Errorf("detach %s in a test", dir) },
		openNode:   func(path string) (*launch.Node, error) { return nil, fmt.Errorf("ask %s in a test", path) },
	}
	c.writeMountinfo()
	return c
}

// testUsers knows alice and the groups net and wheel.
type testUsers struct{}

func (testUsers) UID(name string) (uint32, error) {
	if name == "alice" {
		return 1000, nil
	}
	return 0, fmt.Errorf("no user %q", name)
}

func (testUsers) GID(name string) (uint32, error) {
	switch name {
	case "net":
		return 100, nil
	case "wheel":
		return 10, nil
	}
	return 0, fmt.Errorf("no group %q", name)
}

func (c *cli) writeMountinfo() {
	c.t.Helper()
	text := "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
	for i, dir := range c.mounts {
		dir = strings.ReplaceAll(dir, " ", `\040`)
		text += fmt.Sprintf("%d 22 0:%d / %s rw,nosuid shared:9 - fuse.stackfs stackfs rw,user_id=0\n", 100+i, 50+i, dir)
	}
	if err := os.WriteFile(c.mountinfo, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// mount makes a directory that is a mount and returns its path.
func (c *cli) mount() string {
	c.t.Helper()
	dir, err := filepath.EvalSymlinks(c.t.TempDir())
	if err != nil {
		c.t.Fatal(err)
	}
	c.mounts = append(c.mounts, dir)
	c.writeMountinfo()
	return dir
}

// stack makes a node below a mount.
func (c *cli) stack(dir, name, kind, status string) {
	c.t.Helper()
	node := filepath.Join(dir, name)
	if err := os.MkdirAll(node, 0o750); err != nil {
		c.t.Fatal(err)
	}
	for file, text := range map[string]string{"type": kind + "\n", "status": status} {
		if err := os.WriteFile(filepath.Join(node, file), []byte(text), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
}

// run executes a command line and returns its exit code; what it printed is
// in c.stdout and c.stderr.
func (c *cli) run(args ...string) int {
	c.stdout.Reset()
	c.stderr.Reset()
	return run(context.Background(), c.env, args)
}

// expect runs a command line that is to end with code, and whose output on
// stderr (stdout, if the code is 0) is to contain text.
func (c *cli) expect(code int, text string, args ...string) {
	c.t.Helper()
	got := c.run(args...)
	out := c.stderr.String()
	if code == exitOK {
		out = c.stdout.String()
	}
	if got != code || !strings.Contains(out, text) {
		c.t.Errorf("%q: got code %d, want %d, with %q\nstdout: %s\nstderr: %s", args, got, code, text, &c.stdout, &c.stderr)
	}
}

func TestCommandLineMistakes(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	one := c.mount()
	c.stack(one, "lab", "netns", "")
	for _, test := range []struct {
		line string
		code int
		text string
	}{
		{"stackfs", exitUsage, "no command is given (stackfs --help shows how)"},
		{"stackfs mouunt", exitUsage, `"mouunt" is no command; did you mean mount`},
		{"stackfs xyzzy", exitUsage, `"xyzzy" is no command (stackfs --help`},
		{"stackfs --bad", exitUsage, "unknown flag: --bad"},
		{"stackfs ls --bad", exitUsage, "unknown flag: --bad (stackfs ls --help shows how)"},
		{"stackfs ls a b", exitUsage, `unexpected argument "b"`},
		{"stackfs mount", exitUsage, "DIR is missing"},
		{"stackfs mount -o frob /x", exitUsage, `unknown option "frob"`},
		{"stackfs umount", exitUsage, "DIR is missing"},
		{"stackfs add", exitUsage, "STACK is missing"},
		{"stackfs rm", exitUsage, "STACK is missing"},
		{"stackfs rm ctl", exitUsage, "has a meaning of its own"},
		{"stackfs completion tcsh", exitUsage, `"tcsh" is no shell`},
		{"stackfs ls /nowhere", exitNotFound, "/nowhere: no stackfs is mounted there (stackfs mount /nowhere mounts one)"},
		{"stackfs ls " + one + "/nope", exitNotFound, one + "/nope: no such stack (stackfs ls " + one + " shows what there is)"},
		{"stackfs ls " + one + "/lab/type", exitNotFound, "no stackfs is mounted there, but on " + one + " (stackfs ls " + one + " shows"},
		{"stackfs umount " + one + "/lab", exitNotFound, "no stackfs is mounted there, but on " + one},
		{"stackfs add -- " + one + "/-x", exitUsage, "begins with '-'"},
		{"stackfs status nope", exitNotFound, one + "/nope: no such stack (stackfs ls " + one + " shows what there is)"},
		{"stackfs check -c /nowhere/x.toml", exitConfig, "/nowhere/x.toml: no such file or directory"},
		{"stackfs run", exitRunFailed, "STACK is missing (stackfs run --help shows how)"},
		{"stackfs run lab", exitRunFailed, "COMMAND is missing"},
		{"stackfs run lab --", exitRunFailed, "COMMAND is missing"},
		{"stackfs run --bad lab", exitRunFailed, "unknown flag: --bad"},
		{"stackfs run -f inett lab -- true", exitRunFailed, `unknown address family "inett"`},
		{"stackfs run -f unix lab -- true", exitRunFailed, "unix sockets are always local"},
		{"stackfs run --no-seccomp lab -- true", exitRunFailed, "it needs --preload"},
		{"mount.stackfs none", exitUsage, "SOURCE and DIR are needed"},
		{"/sbin/mount.fuse.stackfs none /x -o frob", exitUsage, `unknown option "frob"`},
	} {
		c.expect(test.code, test.text, strings.Fields(test.line)...)
	}
}

func TestHelpOfEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	for _, cmd := range newRoot(c.env).Commands() {
		if cmd.Long == "" || cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s lacks a description or examples", cmd.CommandPath())
		}
		c.expect(exitOK, cmd.Example, "stackfs", cmd.Name(), "--help")
	}
	c.expect(exitOK, "stackfs "+version, "stackfs", "version")
	c.expect(exitOK, "stackfs "+version, "stackfs", "--version")
	c.expect(exitOK, "usage: mount.stackfs", "mount.stackfs", "--help")
	c.expect(exitOK, "", "mount.stackfs", "-f", "none", "/x")
}

func TestErrorsAreSaidOncePerLineAndCannotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.run("stackfs", "ls", "/no\x1b[31mwhere")
	if got := c.stderr.String(); strings.Contains(got, "\x1b") || strings.Count(got, "\n") != 1 {
		t.Errorf("got %q, want one line without escapes", got)
	}
}

func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	for shell, text := range map[string]string{
		"bash": "__start_stackfs", "zsh": "#compdef stackfs", "fish": "complete -c stackfs",
	} {
		c.expect(exitOK, text, "stackfs", "completion", shell)
	}
}

func TestStacksAreCompleted(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.stack(dir, "lab", "netns", "")
	c.stack(dir, "lan", "netns", "")
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"run", "la"}, "lab\nlan\n:4\n"},
		{[]string{"run", "/"}, ":16\n"},
		{[]string{"run", "lab", "x"}, ":0\n"},
		{[]string{"status", ""}, "lab\nlan\n:4\n"},
		{[]string{"rm", "lab", ""}, ":4\n"},
		{[]string{"add", ""}, ":16\n"},
		{[]string{"ls", ""}, dir + "\n:4\n"},
		{[]string{"mount", ""}, ":16\n"},
	} {
		c.run(append([]string{"stackfs", "__complete"}, test.words...)...)
		if got := c.stdout.String(); got != test.want {
			t.Errorf("%q: got %q, want %q", test.words, got, test.want)
		}
	}
}
