package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode/msocket"
)

// testImage is the image of a connection between two addresses.
func testImage(t testing.TB, local, remote string) []byte {
	t.Helper()
	c := &soccr.Conn{
		Data: soccr.Data{
			State: soccr.Established, InqLen: 5, InqSeq: 1005, OutqLen: 3, OutqSeq: 2003, UnsqLen: 1, MSSClamp: 1460,
		},
		Family: unix.AF_INET, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
		Recv: []byte("hello"), Send: []byte("abc"), Options: soccr.Options{"TCP_NODELAY": 1},
		Meta: soccr.Meta{Cookie: 4097, Time: time.Unix(1, 0), Live: true, Method: "bpf"},
	}
	b, err := image.Encode(c, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A restoring is a restore that a test looks at.
type restoring struct {
	stack string
	image []byte
	inetd bool
	path  string
	argv  []string
}

// restores makes c's stacks restore every image, or fail with err.
func (c *cli) restores(err error) *restoring {
	r := &restoring{}
	c.restoreSocket = func(_ context.Context, stack string, image io.Reader) (*os.File, error) {
		var rerr error
		r.stack = stack
		if r.image, rerr = io.ReadAll(image); rerr != nil || err != nil {
			return nil, errors.Join(rerr, err)
		}
		return os.Open(os.DevNull)
	}
	c.become = func(sock *os.File, inetd bool, path string, argv []string) error {
		defer sock.Close()
		r.inetd, r.path, r.argv = inetd, path, argv
		return fmt.Errorf("%w; the connection was closed", syscall.ENOEXEC)
	}
	return r
}

func TestRestoreBecomesTheProgram(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.conns(dir, "lab", labConns)
	other := t.TempDir() // a node may be bound anywhere
	c.stack(other, "lab", "netns", "")
	img := testImage(t, "192.0.2.1:80", "192.0.2.2:4711")
	file := filepath.Join(t.TempDir(), "conn.img")
	if err := os.WriteFile(file, img, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args  []string
		stack string
		argv  []string
	}{
		{[]string{file, "lab", "--", "true", "--inetd"}, dir + "/lab", []string{"true", "--inetd"}},
		{[]string{"--inetd", file, dir + "/lab", "true"}, dir + "/lab", []string{"true"}},
		{[]string{"-", other + "/lab", "true"}, other + "/lab", []string{"true"}},
	} {
		r := c.restores(nil)
		c.env.stdin = bytes.NewReader(img)
		c.expect(exitNotRunnable, "true: exec format error; the connection was closed", append([]string{"stackfs", "restore"}, test.args...)...)
		if r.stack != test.stack || !bytes.Equal(r.image, img) || r.inetd != (test.args[0] == "--inetd") || !slices.Equal(r.argv, test.argv) {
			t.Errorf("%q: got %+v, want %s and %q", test.args, r, test.stack, test.argv)
		}
		if !filepath.IsAbs(r.path) || filepath.Base(r.path) != "true" {
			t.Errorf("got the program %q, want true of PATH", r.path)
		}
	}
}

func TestRestoreMistakes(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	node := c.conns(dir, "lab", labConns)
	c.stack(dir, "null", "null", "")
	scratch := t.TempDir()
	write := func(name string, text []byte, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(scratch, name), text, mode); err != nil {
			t.Fatal(err)
		}
	}
	img := testImage(t, "192.0.2.1:80", "192.0.2.2:4711")
	write("ok", img, 0o600)
	write("short", img[:len(img)-1], 0o600)
	write("plain", []byte("x"), 0o600)
	if err := os.WriteFile(node+"/restore", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := c.restores(nil)
	for _, test := range []struct {
		line string
		code int
		text string
	}{
		{"", exitRunFailed, "IMAGE is missing (stackfs restore --help shows how)"},
		{"ok", exitRunFailed, "STACK is missing"},
		{"--criu d", exitRunFailed, "STACK is missing"},
		{"ok lab", exitRunFailed, "COMMAND is missing: who is to have the connection"},
		{"ok lab --", exitRunFailed, "COMMAND is missing"},
		{"ok lab --inetd cat", exitRunFailed, "flags of stackfs stand before IMAGE, as --inetd"},
		{"--conn 1 ok lab cat", exitRunFailed, "--conn chooses from the dump of --criu"},
		{"--frob ok lab cat", exitRunFailed, "unknown flag: --frob"},
		{"--check ok lab cat", exitRunFailed, "--check starts nothing"},
		{"ok lab ./nothing", exitNoProgram, "./nothing: no such file or directory"},
		{"ok lab no-such-program", exitNoProgram, "no-such-program: no such file or directory"},
		{"ok lab ./plain", exitNotRunnable, "./plain: permission denied"},
		{"gone lab true", exitRunFailed, "gone: no such file or directory"},
		{"short lab true", exitRunFailed, "short: "},
		{"plain lab true", exitRunFailed, "plain: "},
		{"--criu . lab true", exitRunFailed, "no dump of CRIU"},
		{"ok nope true", exitRunFailed, dir + "/nope: no such stack"},
		{"--check ok null", exitFailed, "the stack has no files of its connections"},
		{"--check ok nope", exitNotFound, dir + "/nope: no such stack"},
		{"--check short lab", exitFailed, "short: "},
	} {
		args := strings.Fields(test.line)
		for i, a := range args {
			if slices.Contains([]string{"ok", "short", "plain", "gone", "./plain", "."}, a) {
				args[i] = filepath.Join(scratch, a)
				test.text = strings.ReplaceAll(test.text, "./plain", filepath.Join(scratch, "plain"))
			}
		}
		c.expect(test.code, test.text, append([]string{"stackfs", "restore"}, args...)...)
	}
	if r.stack != "" {
		t.Errorf("something was restored on %s", r.stack)
	}
	c.expect(exitOK, "192.0.2.1:80 192.0.2.2:4711 established, 5 bytes received, 3 bytes to send\n", "stackfs", "restore", "--check", scratch+"/ok", "lab")
}

func TestRefusedRestoreSaysWhy(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	c.conns(dir, "lab", labConns)
	file := filepath.Join(t.TempDir(), "conn.img")
	if err := os.WriteFile(file, testImage(t, "192.0.2.1:80", "192.0.2.2:4711"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("stack lab has not the address 192.0.2.1: %w", syscall.EADDRNOTAVAIL), dir + "/lab: stack lab has not the address 192.0.2.1: cannot"},
		{&msocket.OpError{Op: "restore", Stack: dir + "/lab", Err: syscall.EBUSY}, "stackfs: " + dir + "/lab: device or resource busy\n"},
		{syscall.ENOENT, "lab: the stack has no files of its connections"},
		{syscall.EACCES, "lab: you may not use this stack"},
		{fmt.Errorf("the stack serves its own network namespace only: %w", syscall.EACCES), "lab: the stack serves its own"},
		{syscall.ENOTCONN, "lab: the daemon of " + dir + " is gone"},
	} {
		c.restores(test.err)
		c.expect(exitRunFailed, test.want, "stackfs", "restore", file, "lab", "true")
	}
}

// The dump is one that criu 3.17 has made.
func TestConnectionOfADumpIsRestored(t *testing.T) {
	t.Parallel()
	const dump = "../../soccr/image/testdata/criu-3.17"
	c := newCLI(t)
	node := c.conns(c.mount(), "lab", labConns)
	if err := os.WriteFile(node+"/restore", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.expect(exitOK, " established, ", "stackfs", "restore", "--check", "--criu", dump, "--conn", "1", "lab")
	seen := c.stdout.String()
	r := c.restores(nil)
	c.expect(exitNotRunnable, "the connection was closed", "stackfs", "restore", "--criu", dump, "lab", "--", "true")
	i, err := image.Decode(r.image)
	if err != nil || i.Foreign || !strings.HasPrefix(seen, fmt.Sprintf("%s %s ", i.Conn.Local, i.Conn.Remote)) {
		t.Errorf("got %v and %+v, want the connection %s", err, i, seen)
	}
}

func TestDumpedConnectionIsChosen(t *testing.T) {
	t.Parallel()
	list := []image.Dumped{
		{File: "tcp-stream-1.img", Local: netip.MustParseAddrPort("192.0.2.1:80"), Remote: netip.MustParseAddrPort("192.0.2.2:1"), Conn: &soccr.Conn{}},
		{File: "tcp-stream-2.img", Local: netip.MustParseAddrPort("192.0.2.1:80"), Remote: netip.MustParseAddrPort("192.0.2.2:2"), Conn: &soccr.Conn{}},
		{File: "tcp-stream-3.img", Err: errors.New("damaged")},
	}
	for which, want := range map[string]string{
		"1": "tcp-stream-1.img", "2": "tcp-stream-2.img",
		"192.0.2.1:80-192.0.2.2:2": "tcp-stream-2.img", "-192.0.2.2:1": "tcp-stream-1.img", "*-192.0.2.2:2": "tcp-stream-2.img",
		"3": "damaged", "0": "--conn 0: the dump has 3 connections", "4": "--conn 4: the dump has 3 connections",
		"": "(--conn says which)", "192.0.2.1:80-": "(--conn says which)", "x": "--conn x: is neither LOCAL-REMOTE",
		"192.0.2.1-192.0.2.2:1": `"192.0.2.1" is no address with a port`, "192.0.2.1:81-": "no such connection",
	} {
		d, err := chooseDumped(list, which)
		got := fmt.Sprint(err)
		if err == nil {
			got = d.File
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: got %s, want %s", which, got, want)
		}
	}
}

func TestRestoreIsCompleted(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.conns(c.mount(), "lab", labConns)
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"restore", ""}, ":0\n"},
		{[]string{"restore", "conn.img", "l"}, "lab\n:4\n"},
		{[]string{"restore", "conn.img", "lab", ""}, ":0\n"},
		{[]string{"restore", "--criu", "d", "l"}, "lab\n:4\n"},
	} {
		c.run(append([]string{"stackfs", "__complete"}, test.words...)...)
		if got := c.stdout.String(); got != test.want {
			t.Errorf("%q: got %q, want %q", test.words, got, test.want)
		}
	}
}
