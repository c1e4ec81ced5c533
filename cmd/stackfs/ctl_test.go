package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stackfs/stackfs/stacknode/launch"
)

// A fakeCtl answers one line as a daemon does.
type fakeCtl struct {
	io.Reader // the answer
	line      *string
	errno     error
}

func (f *fakeCtl) Write(p []byte) (int, error) {
	*f.line = string(p)
	if f.errno != nil {
		return 0, &os.PathError{Op: "write", Path: "ctl", Err: f.errno}
	}
	return len(p), nil
}

func (f *fakeCtl) Close() error { return nil }

// answer makes c's daemon answer every line like that. The line and the
// path of the file are stored.
func (c *cli) answer(text string, errno error) (line, path *string) {
	line, path = new(string), new(string)
	c.openCtl = func(p string) (io.ReadWriteCloser, error) {
		*path = p
		return &fakeCtl{strings.NewReader(text), line, errno}, nil
	}
	return line, path
}

func TestOrders(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"add", dir + "/lab"}, "add lab\n"},
		{[]string{"add", "lab", `mode = "0750"`, `mtu = 3`}, ""},
		{[]string{"add", "lab", `mode = "0750"`, `group = "anybody"`}, "add lab {mode = \"0750\", group = \"anybody\"}\n"},
		{[]string{"add", "lab", `{ netns = "x" }`}, "add lab { netns = \"x\" }\n"},
		{[]string{"rm", "lab"}, "remove lab\n"},
		{[]string{"rm", "--force", dir + "/lab/"}, "remove lab force\n"},
		{[]string{"reload"}, "reload\n"},
		{[]string{"reload", dir}, "reload\n"},
	} {
		line, path := c.answer("ok\n", nil)
		code := c.run(append([]string{"stackfs"}, test.args...)...)
		if *line != test.want || (code == exitOK) != (test.want != "") {
			t.Errorf("%q: wrote %q with code %d, want %q\n%s", test.args, *line, code, test.want, &c.stderr)
		}
		if test.want != "" && *path != dir+"/ctl" {
			t.Errorf("%q: wrote to %s, want %s/ctl", test.args, *path, dir)
		}
	}
}

func TestRefusedOrders(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	for _, test := range []struct {
		answer string
		errno  error
		code   int
		text   string
	}{
		{"error: stack lab is in use: 2 sockets\n", syscall.EBUSY, exitBusy, dir + "/lab: stack lab is in use: 2 sockets (stackfs rm --force removes it all the same)"},
		{"error: lab: no such stack: no such file or directory\n", syscall.ENOENT, exitNotFound, dir + "/lab: no such stack (stackfs ls " + dir + " shows what there is)\n"},
		{"error: stack lab: permanent: operation not permitted\n", syscall.EPERM, exitNotAllowed, dir + "/lab: stack lab: permanent\n"},
		{"error: no\n", nil, exitFailed, dir + "/lab: no\n"},
		{"", syscall.EPERM, exitNotAllowed, "only root may change the stacks of " + dir},
		{"", syscall.ENOTCONN, exitNoDaemon, "is gone (stackfs mount " + dir + " takes the mount over)"},
		{"", nil, exitFailed, "neither ok nor an error"},
	} {
		c.answer(test.answer, test.errno)
		c.expect(test.code, test.text, "stackfs", "rm", "lab")
	}
	c.answer("error: f:3: stack.a.b: unknown key: invalid argument\n", syscall.EINVAL)
	c.expect(exitConfig, "f:3: stack.a.b: unknown key\n", "stackfs", "reload")
	c.expect(exitConfig, "unknown key\n", "stackfs", "add", "lab")
	c.answer("error: no network namespace named x: no such file or directory\n", syscall.ENOENT)
	c.expect(exitFailed, "no network namespace named x\n", "stackfs", "add", "lab")
}

func TestAddChecksItsOptions(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	line, _ := c.answer("ok\n", nil)
	c.expect(exitConfig, `stack lab: adresses: unknown key (did you mean "addresses"?)`, "stackfs", "add", "lab", "adresses = []")
	c.expect(exitConfig, "must be one line", "stackfs", "add", "lab", "addresses = [\n]")
	c.expect(exitConfig, "stack lab: ", "stackfs", "add", "lab", "mode = ")
	c.expect(exitUsage, "is longer than 63 bytes", "stackfs", "add", strings.Repeat("x", 64))
	c.expect(exitFailed, "is the mount; a stack is "+dir+"/NAME", "stackfs", "add", dir)
	c.expect(exitNotFound, "/tmp/nowhere: no stackfs is mounted there", "stackfs", "add", "/tmp/nowhere/lab")
	if *line != "" {
		t.Errorf("wrote %q, want nothing", *line)
	}
}

func TestUmountWaitsUntilTheMountIsGone(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	var line string
	c.openCtl = func(string) (io.ReadWriteCloser, error) {
		c.mounts = nil
		c.writeMountinfo()
		return &fakeCtl{strings.NewReader("ok\n"), &line, nil}, nil
	}
	c.expect(exitOK, "", "stackfs", "umount", "--keep", "--force", dir)
	if want := "umount keep force\n"; line != want {
		t.Errorf("wrote %q, want %q", line, want)
	}
}

func TestUmountOfABusyMount(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.answer("error: stack lab is in use: process 7 (sleep)\n", syscall.EBUSY)
	c.expect(exitBusy, "process 7 (sleep) (stackfs umount --keep leaves the stacks to a later mount, --force ends them", "stackfs", "umount", dir)
	c.answer("ok\n", nil)
	c.patience = 50 * time.Millisecond
	c.expect(exitBusy, "the mount is still there", "stackfs", "umount", dir)
}

func TestUmountDetachesADeadMount(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	var detached string
	c.detach = func(d string) error { detached = d; return nil }
	c.openCtl = func(p string) (io.ReadWriteCloser, error) {
		return nil, &os.PathError{Op: "open", Path: p, Err: syscall.ENOTCONN}
	}
	if code := c.run("stackfs", "umount", dir); code != exitOK || detached != dir {
		t.Errorf("got code %d and detached %q, want 0 and %q", code, detached, dir)
	}
}

func TestStuckDaemonIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.patience = 20 * time.Millisecond // followLink is to be faster
	stuck := make(chan struct{})
	t.Cleanup(func() { close(stuck) })
	c.openCtl = func(string) (io.ReadWriteCloser, error) { <-stuck; return nil, io.EOF }
	c.expect(exitNoDaemon, "the daemon does not answer within", "stackfs", "reload")
	c.expect(exitNoDaemon, "umount --force "+dir+" detaches", "stackfs", "umount", dir)
	gaveUp := make(chan struct{}, 1)
	c.openNode = func(string) (*launch.Node, error) { <-gaveUp; return nil, io.EOF }
	c.exit = func(code int) {
		if code != exitRunFailed {
			t.Errorf("run: exit code %d, want %d", code, exitRunFailed)
		}
		gaveUp <- struct{}{}
	}
	for _, test := range []struct {
		line string
		code int
	}{
		{"add lab", exitNoDaemon}, {"add " + dir + "/lab", exitNoDaemon},
		{"rm lab", exitNoDaemon}, {"rm --force " + dir + "/lab", exitNoDaemon},
		{"reload " + dir, exitNoDaemon}, {"umount --keep " + dir, exitNoDaemon},
		{"run lab -- true", exitRunFailed}, {"run -s " + dir + "/lab", exitRunFailed},
	} {
		c.expect(test.code, "does not answer within 20ms (stackfs umount --force "+dir+" detaches", append([]string{"stackfs"}, strings.Fields(test.line)...)...)
	}
	detached := ""
	c.detach = func(d string) error { detached = d; return nil }
	c.expect(exitOK, "", "stackfs", "umount", "--force", dir)
	if detached != dir {
		t.Errorf("detached %q, want %q", detached, dir)
	}
	_, err := within(context.Background(), time.Millisecond, func() (int, error) { <-stuck; return 0, nil })
	if !errors.Is(err, errNoAnswer) {
		t.Errorf("within: got %v, want errNoAnswer", err)
	}
}

func TestMountFileIsNeverALinkAndNeverBlocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := readMountFile(filepath.Join(dir, "link")); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("link: got %v, want ELOOP", err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := readMountFile(filepath.Join(dir, "fifo")); text != "" || err != nil {
		t.Errorf("FIFO: got %q, %v, want nothing", text, err)
	}
}
