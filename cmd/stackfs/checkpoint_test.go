package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A holdCtl is the file ctl of a connection. Each line that is written is
// noted; refuse has those that fail.
type holdCtl struct {
	refuse map[string]error
	lines  []string
	closed bool
	answer io.Reader
	on     func(line string)
}

func (f *holdCtl) Write(p []byte) (int, error) {
	line := strings.TrimSuffix(string(p), "\n")
	f.lines = append(f.lines, line)
	if f.on != nil {
		f.on(line)
	}
	if err := f.refuse[line]; err != nil {
		f.answer = strings.NewReader("error: " + err.Error() + "\n")
		return 0, &os.PathError{Op: "write", Path: "ctl", Err: err}
	}
	f.answer = strings.NewReader("ok\n")
	return len(p), nil
}

func (f *holdCtl) Read(p []byte) (int, error) { return f.answer.Read(p) }

func (f *holdCtl) Close() error {
	f.closed = true
	return nil
}

// hold makes c's connections take orders.
func (c *cli) hold(refuse map[string]error) *holdCtl {
	f := &holdCtl{refuse: refuse}
	c.openCtl = func(path string) (io.ReadWriteCloser, error) {
		if filepath.Base(path) != "ctl" || filepath.Base(filepath.Dir(filepath.Dir(path))) != "conns" {
			return nil, fmt.Errorf("open %s in a test", path)
		}
		return f, nil
	}
	return f
}

// image gives a connection of a stack an image.
func (c *cli) image(node, id, image string) {
	c.t.Helper()
	dir := filepath.Join(node, "conns", id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	for file, text := range map[string]string{"local": "192.0.2.1:80\n", "checkpoint": image} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
}

func TestCheckpointGoesWhereItIsWanted(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	node := c.conns(c.mount(), "lab", labConns)
	image := strings.Repeat("\x00\xffimage", 1<<18) // more than one read
	c.image(node, "4097", image)
	file := filepath.Join(t.TempDir(), "conn.img")
	for _, args := range [][]string{{"lab", "4097"}, {node + "/conns/4097"}, {"-o", "-", "lab", "4097"}} {
		c.expect(exitOK, "", append([]string{"stackfs", "checkpoint"}, args...)...)
		if c.stdout.String() != image {
			t.Errorf("%q: got %d bytes, want the image of %d", args, c.stdout.Len(), len(image))
		}
	}
	for range 2 { // made, replaced
		c.expect(exitOK, "", "stackfs", "checkpoint", "-o", file, "lab", "4097")
		got, err := os.ReadFile(file)
		if err != nil || string(got) != image || c.stdout.Len() > 0 {
			t.Errorf("got %d bytes, %v and %d on stdout, want the image in the file alone", len(got), err, c.stdout.Len())
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600: an image has what others wrote", info.Mode(), err)
	}
	c.onlyFiles(filepath.Dir(file), "conn.img")
}

// onlyFiles fails the test if a directory has other files than names.
func (c *cli) onlyFiles(dir string, names ...string) {
	c.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, names) {
		c.t.Errorf("%s has %q, want %q", dir, got, names)
	}
}

func TestCheckpointMistakes(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	node := c.conns(c.mount(), "lab", labConns)
	c.image(node, "4097", "image")
	for _, test := range []struct {
		line string
		code int
		text string
	}{
		{"", exitUsage, "STACK is missing (stackfs checkpoint --help shows how)"},
		{"lab", exitUsage, "the number of the connection is missing"},
		{"lab 4097 4098", exitUsage, "one connection at a time, or --all"},
		{"--state listen lab 4097", exitUsage, "--state is for --all"},
		{"-4 lab 4097", exitUsage, "--ipv4 is for --all"},
		{"--all lab", exitUsage, "DIR is missing"},
		{"--all lab /x y", exitUsage, `unexpected argument "y"`},
		{"--all --move lab /x", exitUsage, "--move is for one connection, not for --all"},
		{"--all -o x lab /x", exitUsage, "--output is for one connection"},
		{"lab 5", exitNotFound, "conn 5: no such connection"},
		{"nope 5", exitNotFound, "/nope: no such stack"},
		{"lab 4098", exitNotFound, "conn 4098: no such connection"},
		{"-o /nowhere/x lab 4097", exitNotWritten, "/nowhere/x: the image was not written, nothing of it is left there: no such file or directory"},
		{"-o /dev/full lab 4097", exitNotWritten, "/dev/full: the image was not written, a part of it may be there: no space left on device"},
		{"-o " + t.TempDir() + " lab 4097", exitNotWritten, "is a directory"},
	} {
		c.expect(test.code, test.text, append([]string{"stackfs", "checkpoint"}, strings.Fields(test.line)...)...)
		if c.stdout.Len() > 0 {
			t.Errorf("%q: wrote %q", test.line, &c.stdout)
		}
	}
	c.isTerminal = func(w io.Writer) bool { return w == c.env.stdout }
	c.expect(exitUsage, "an image is nothing for a terminal", "stackfs", "checkpoint", "lab", "4097")
}

func TestRefusedCheckpointSaysWhy(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	node := c.conns(c.mount(), "lab", labConns)
	conn := filepath.Join(node, "conns", "4097")
	if err := os.Mkdir(conn+"/checkpoint", 0o755); err != nil { // reading it is EISDIR
		t.Fatal(err)
	}
	c.expect(exitFailed, "stackfs: conn 4097: is a directory\n", "stackfs", "checkpoint", "lab", "4097")
	for text, want := range map[string]string{
		"error: not saveable: 3 bytes of urgent data\n":           "stackfs: conn 4097: not saveable: 3 bytes of urgent data\n",
		"error: process 71 (sshd) is not yours: is a directory\n": "stackfs: conn 4097: process 71 (sshd) is not yours\n",
		"ok\n": "stackfs: conn 4097: is a directory\n",
	} {
		if err := os.WriteFile(conn+"/ctl", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.expect(exitFailed, want, "stackfs", "checkpoint", "lab", "4097")
	}
	for errno, want := range map[syscall.Errno]int{
		syscall.EOPNOTSUPP: exitNotSaveable, syscall.EPERM: exitNotAllowed, syscall.EBUSY: exitBusy, syscall.ENOTCONN: exitNoDaemon,
		syscall.EIO: exitFailed,
	} {
		if got := exitCode(&connError{"1", &ctlError{"why", errno}}); got != want {
			t.Errorf("%v: got code %d, want %d", errno, got, want)
		}
	}
}

func TestMoveReleasesWhatIsWritten(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	node := c.conns(c.mount(), "lab", labConns)
	c.image(node, "4097", "image")
	file := filepath.Join(t.TempDir(), "conn.img")
	ctl := c.hold(nil)
	ctl.on = func(line string) {
		if text, err := os.ReadFile(file); line == "release" && (err != nil || string(text) != "image") {
			t.Errorf("at its release the image is %q, %v", text, err)
		}
	}
	c.expect(exitOK, "", "stackfs", "checkpoint", "--move", "-o", file, "lab", "4097")
	if want := []string{"hold", "release"}; !slices.Equal(ctl.lines, want) || !ctl.closed {
		t.Errorf("got %q, closed %v, want %q", ctl.lines, ctl.closed, want)
	}
	ctl = c.hold(nil)
	c.expect(exitOK, "image", "stackfs", "checkpoint", "--move", node+"/conns/4097")
	if want := []string{"hold", "release"}; !slices.Equal(ctl.lines, want) {
		t.Errorf("got %q, want %q", ctl.lines, want)
	}
}

// failingWriter takes a few bytes.
type failingWriter struct{ bytes.Buffer }

func (*failingWriter) Write(p []byte) (int, error) { return 2, syscall.ENOSPC }

func TestFailedMoveResumes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := filepath.Join(dir, "conn.img")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args    []string
		refuse  map[string]error
		noImage bool
		stdout  io.Writer
		code    int
		text    string
		lines   []string
	}{
		"held by another": {
			refuse: map[string]error{"hold": syscall.EBUSY}, code: exitBusy,
			text: "conn 4097: device or resource busy", lines: []string{"hold"},
		},
		"not saveable": {
			noImage: true, code: exitFailed,
			text: "conn 4097: the daemon gave no image; the connection goes on", lines: []string{"hold", "resume"},
		},
		"no directory": {
			args: []string{"-o", dir + "/x/y"}, code: exitNotWritten,
			text: "no such file or directory; the connection goes on", lines: []string{"hold", "resume"},
		},
		"disk full": {
			args: []string{"-o", "/dev/full"}, code: exitNotWritten,
			text: "no space left on device; the connection goes on", lines: []string{"hold", "resume"},
		},
		"output full": {
			stdout: &failingWriter{}, code: exitNotWritten,
			text:  "standard output: the image was not written, a part of it may be there: no space left on device; the connection goes on",
			lines: []string{"hold", "resume"},
		},
		"not released": {
			args: []string{"-o", old}, refuse: map[string]error{"release": syscall.EIO}, code: exitFailed,
			text: "the image was written, but the connection may go on (stackfs conns ", lines: []string{"hold", "release"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCLI(t)
			node := c.conns(c.mount(), "lab", labConns)
			image := "image"
			if test.noImage {
				image = ""
			}
			c.image(node, "4097", image)
			ctl := c.hold(test.refuse)
			if test.stdout != nil {
				c.env.stdout = test.stdout
			}
			c.expect(test.code, test.text, append(append([]string{"stackfs", "checkpoint", "--move"}, test.args...), "lab", "4097")...)
			if !slices.Equal(ctl.lines, test.lines) {
				t.Errorf("got %q, want %q", ctl.lines, test.lines)
			}
		})
	}
	c := newCLI(t)
	c.onlyFiles(dir, "conn.img")
}

// stuckWriter waits for ever.
type stuckWriter struct{ begun func() }

func (w stuckWriter) Write([]byte) (int, error) {
	w.begun()
	select {}
}

func TestInterruptedMoveResumes(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	node := c.conns(c.mount(), "lab", labConns)
	c.image(node, "4097", "image")
	ctl := c.hold(nil)
	ctx, cancel := context.WithCancelCause(context.Background())
	err := c.moveConn(ctx, connRef{node, nameConns, "4097"}, sink{out: stuckWriter{func() { cancel(errors.New("interrupted")) }}})
	if err == nil || !strings.HasSuffix(err.Error(), "interrupted; the connection goes on") {
		t.Errorf("got %v, want that it was interrupted", err)
	}
	if want := []string{"hold", "resume"}; !slices.Equal(ctl.lines, want) {
		t.Errorf("got %q, want %q", ctl.lines, want)
	}
}

func TestSavedFileIsCompleteOrAsItWas(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := t.TempDir()
	file, link := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.Symlink("a", link); err != nil {
		t.Fatal(err)
	}
	write := func(text string, then error) error {
		return saveFile(link, true, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return errors.Join(err, then)
		})
	}
	if err := write("one", nil); err != nil {
		t.Fatal(err)
	}
	// What a dangling link led to is not made: the name itself is.
	if info, err := os.Lstat(link); err != nil || !info.Mode().IsRegular() {
		t.Errorf("got %v, %v, want a file", info.Mode(), err)
	}
	if err := os.Rename(link, file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", link); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		text string
		then error
		want string
	}{{"two", syscall.EIO, "one"}, {"three", nil, "three"}} {
		if err := write(test.text, test.then); !errors.Is(err, test.then) {
			t.Errorf("got %v, want %v", err, test.then)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != test.want {
			t.Errorf("got %q, %v, want %q", got, err, test.want)
		}
		c.onlyFiles(dir, "a", "b")
	}
}

func TestCheckpointAll(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	node := c.conns(c.mount(), "lab", labConns)
	c.image(node, "4097", "one")
	c.image(node, "4098", "two")
	c.image(node, "4100", "")
	dir := filepath.Join(t.TempDir(), "images")
	// 4101 has no files: it ended meanwhile.
	c.expect(exitPartly, "stackfs: conn 4100: the daemon gave no image\nstackfs: 1 connection was not saved\n", "stackfs", "checkpoint", "--all", "lab", dir)
	if got, want := c.stdout.String(), "saved 2 of 4 connections in "+dir+"; 1 ended meanwhile\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	c.onlyFiles(dir, "4097.img", "4098.img")
	for file, want := range map[string]string{"4097.img": "one", "4098.img": "two"} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
		}
	}
	c.image(node, "4097", "three")
	c.expect(exitOK, "saved 1 of 1 connections in "+dir+"; 3 in states that cannot be saved\n",
		"stackfs", "checkpoint", "--all", "--state", "all", "--sport", "80", "lab", dir)
	if got, err := os.ReadFile(dir + "/4097.img"); err != nil || string(got) != "three" {
		t.Errorf("got %q, %v, want the new image", got, err)
	}
	c.expect(exitOK, "saved 0 of 0 connections", "stackfs", "checkpoint", "--all", "--user", "alice", "lab", dir)
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.expect(exitNotWritten, "not a directory", "stackfs", "checkpoint", "--all", "lab", dir+"/file")
	c.expect(exitNotWritten, "no such file or directory", "stackfs", "checkpoint", "--all", "lab", dir+"/x/y")
}

func TestReasonsAreSaidOnce(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	table := "# cookie\n"
	for id := range 9 {
		table += fmt.Sprintf("%d established inet 0 0 192.0.2.1:80 192.0.2.2:%d 0 1\n", id+1, id+1)
	}
	node := c.conns(c.mount(), "lab", table)
	for id := range 9 {
		c.image(node, fmt.Sprint(id+1), "")
		if err := os.WriteFile(fmt.Sprintf("%s/conns/%d/ctl", node, id+1), []byte("error: unused\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.expect(exitPartly, " and 4 more: the daemon gave no image\nstackfs: 9 connections were not saved\n", "stackfs", "checkpoint", "--all", "lab", t.TempDir())
	c.image(node, "3", "image")
	c.isTerminal = func(w io.Writer) bool { return w == c.env.stderr }
	c.expect(exitPartly, "saving", "stackfs", "checkpoint", "--all", "lab", t.TempDir())
}

func TestCheckpointIsCompleted(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.conns(c.mount(), "lab", labConns)
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"checkpoint", "la"}, "lab\n:4\n"},
		{[]string{"checkpoint", "lab", "4097"}, "4097\t192.0.2.1:80 192.0.2.2:4711 established\n:4\n"},
		{[]string{"checkpoint", "lab", "4097", ""}, ":4\n"},
		{[]string{"checkpoint", "--all", "lab", ""}, ":16\n"},
	} {
		c.run(append([]string{"stackfs", "__complete"}, test.words...)...)
		if got := c.stdout.String(); got != test.want {
			t.Errorf("%q: got %q, want %q", test.words, got, test.want)
		}
	}
}
