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

// treeNeeds are the needs of every test that mounts.
var treeNeeds = []Need{Root, FUSE, NetAdmin, Kernel("5.6", "pidfd_getfd")}

// mustSocketIn makes a socket in a stack of m, closed with the test.
func mustSocketIn(t *testing.T, m *M, stack string) *os.File {
	t.Helper()
	t.Cleanup(msocket.CloseIdle)
	f, err := msocket.Socket(m.Path(stack), unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode()
}

// errnoOf returns the errno in err, 0 for nil.
func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	errors.As(err, &e)
	return e
}

func TestTreeHasStacks(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"lab"}, TOML: "[stack.other]\nbackend = \"kernel\"\nmode = \"0750\"\ngroup = 65534\n"})
	if got, want := names(t, m.Dir), []string{"ctl", "fast", "kernel", "lab", "null", "other"}; !slices.Equal(got, want) {
		t.Errorf("entries: got %q, want %q", got, want)
	}
	inodes := map[uint64]string{}
	for stack, want := range map[string]struct {
		kind, families string
		mode           fs.FileMode
	}{
		"kernel": {"kernel", "inet,inet6,netlink,packet", 0o755},
		"null":   {"null", "", 0o755},
		"lab":    {"netns", "inet,inet6,netlink,packet", 0o700},
		"other":  {"kernel", "inet,inet6,netlink,packet", 0o750},
	} {
		if got := modeOf(t, m.Path(stack)); got != fs.ModeDir|want.mode {
			t.Errorf("%s: mode %v, want %v", stack, got, fs.ModeDir|want.mode)
		}
		if got := m.Read(stack, "type"); got != want.kind+"\n" {
			t.Errorf("%s: type %q, want %q", stack, got, want.kind)
		}
		value := make([]byte, 64)
		n, err := unix.Getxattr(m.Path(stack), "user.stackfs.type", value)
		if err != nil || string(value[:n]) != want.kind {
			t.Errorf("%s: user.stackfs.type: got %q, %v, want %q", stack, value[:max(n, 0)], err, want.kind)
		}
		n, err = unix.Listxattr(m.Path(stack), value)
		if err != nil || string(value[:n]) != "user.stackfs.type\x00" {
			t.Errorf("%s: attributes: got %q, %v", stack, value[:max(n, 0)], err)
		}
		st := m.Status(stack)
		if st["name"] != stack || st["kind"] != want.kind || st["state"] != "up" || st["families"] != want.families {
			t.Errorf("%s: status %v", stack, st)
		}
		if want.kind != "null" && (st["netns"] == "" || st["netns_cookie"] == "") {
			t.Errorf("%s: status has no namespace: %v", stack, st)
		}
		entries := []string{"status", "type"}
		if want.kind != "null" {
			entries = []string{"connections", "conns", "listeners", "restore", "status", "type"}
		}
		if got := names(t, m.Path(stack)); !slices.Equal(got, entries) {
			t.Errorf("%s: entries: got %q, want %q", stack, got, entries)
		}
		for _, path := range []string{m.Path(stack), m.Path(stack, "type"), m.Path(stack, "status")} {
			var s unix.Stat_t
			if err := unix.Lstat(path, &s); err != nil {
				t.Fatal(err)
			}
			if other, taken := inodes[s.Ino]; taken {
				t.Errorf("%s and %s have the same inode number", path, other)
			}
			inodes[s.Ino] = path
		}
	}
	if got := modeOf(t, m.Path("ctl")); got != 0o600 {
		t.Errorf("ctl: mode %v, want -rw-------", got)
	}
	if _, err := unix.Getxattr(m.Dir, "user.stackfs.type", nil); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("the root is no stack: %v", err)
	}
	if _, err := os.Lstat(m.Path("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: got %v, want ENOENT", err)
	}
}

func TestTreeIsNotWrittenTo(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{})
	for what, do := range map[string]func() error{
		"a file in the root":  func() error { return os.WriteFile(m.Path("file"), nil, 0o600) },
		"a file in a stack":   func() error { return os.WriteFile(m.Path("kernel", "file"), nil, 0o600) },
		"mkdir in a stack":    func() error { return os.Mkdir(m.Path("kernel", "dir"), 0o700) },
		"a link":              func() error { return os.Symlink("kernel", m.Path("link")) },
		"a stack renamed":     func() error { return os.Rename(m.Path("kernel"), m.Path("k")) },
		"status written":      func() error { return os.WriteFile(m.Path("kernel", "status"), []byte("x"), 0) },
		"a file of a stack":   func() error { return os.Remove(m.Path("kernel", "type")) },
		"ctl removed":         func() error { return os.Remove(m.Path("ctl")) },
		"ctl's mode":          func() error { return os.Chmod(m.Path("ctl"), 0o666) },
		"an attribute":        func() error { return unix.Setxattr(m.Path("kernel"), "user.stackfs.type", []byte("x"), 0) },
		"a node":              func() error { return unix.Mknod(m.Path("node"), unix.S_IFCHR|0o666, 1<<8|3) },
		"a hard link to type": func() error { return os.Link(m.Path("kernel", "type"), m.Path("type")) },
	} {
		if err := Within(t, answerTime, what, do); err == nil {
			t.Errorf("%s: got nil, want an error", what)
		} else if e := errnoOf(err); e == unix.ENOSYS || e == unix.EIO || e == 0 {
			t.Errorf("%s: got %v, which says nothing", what, err)
		}
	}
	if got, want := names(t, m.Dir), []string{"ctl", "fast", "kernel", "null"}; !slices.Equal(got, want) {
		t.Errorf("entries: got %q, want %q", got, want)
	}
}

func TestMkdirMakesStack(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{AllowLog: []string{"msg=mkdir"}})
	if err := os.Mkdir(m.Path("x"), 0o777); err != nil {
		t.Fatal(err)
	}
	if got := modeOf(t, m.Path("x")); got != fs.ModeDir|0o700 {
		t.Errorf("mode %v, want drwx------ whatever mkdir was given", got)
	}
	st := m.Status("x")
	if st["kind"] != "netns" || st["origin"] != "runtime" {
		t.Errorf("status %v", st)
	}
	s := mustSocketIn(t, m, "x")
	if got := netnsCookieOf(t, s); got != st["netns_cookie"] {
		t.Errorf("socket in namespace %s, want %s", got, st["netns_cookie"])
	}
	if err := os.Remove(m.Path("x")); !errors.Is(err, unix.EBUSY) {
		t.Errorf("rmdir with a socket open: got %v, want EBUSY", err)
	}
	if f, err := msocket.Socket(m.Path("x"), unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
		t.Errorf("the stack serves no more after a refused rmdir: %v", err)
	} else {
		f.Close()
	}
	s.Close()
	msocket.CloseIdle()
	if err := os.Remove(m.Path("x")); err != nil {
		t.Errorf("rmdir: %v", err)
	}
	if _, err := os.Lstat(m.Path("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after rmdir: got %v, want ENOENT", err)
	}
	if err := os.Mkdir(m.Path("x"), 0o700); err != nil {
		t.Errorf("mkdir again: %v", err)
	}
	if again := m.Status("x")["netns_cookie"]; again == st["netns_cookie"] {
		t.Errorf("the namespace is the one that was removed")
	}
	for name, want := range map[string]syscall.Errno{"kernel": unix.EEXIST, "ctl": unix.EEXIST, "tun": unix.EINVAL, "a b": unix.EINVAL, strings.Repeat("n", 64): unix.EINVAL} {
		if err := os.Mkdir(m.Path(name), 0o700); !errors.Is(err, want) && !(len(name) > 63 && errors.Is(err, unix.ENAMETOOLONG)) {
			t.Errorf("mkdir %q: got %v, want %v", name, err, want)
		}
	}
	for _, name := range []string{"kernel", "null"} {
		if err := unix.Rmdir(m.Path(name)); err != unix.EPERM {
			t.Errorf("rmdir %s: got %v, want EPERM", name, err)
		}
	}
	for _, args := range [][]string{{"mkdir", m.Path("y")}, {"rmdir", m.Path("x")}} {
		cmd := AsUser(Command(t, 10*time.Second, args[0], args[1]), Nobody, Nobody)
		if _, stderr, code := Output(t, cmd); code == 0 || !strings.Contains(stderr, "Permission denied") {
			t.Errorf("%s as nobody: exit code %d, %q, want permission denied", args[0], code, stderr)
		}
	}
}

// canRead tells whether a user can list a stack.
func canRead(t *testing.T, m *M, stack string, uid, gid uint32, groups ...uint32) bool {
	t.Helper()
	_, stderr, code := Output(t, AsUser(Command(t, 10*time.Second, "ls", m.Path(stack)), uid, gid, groups...))
	if code != 0 && !strings.Contains(stderr, "Permission denied") {
		t.Errorf("ls %s as %d: %s", stack, uid, stderr)
	}
	return code == 0
}

func TestModeDecidesWhoMayUseStack(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"lab"}})
	lab := m.Path("lab")
	const alice, staff = 1701, 1702
	check := func(what string, uid, gid uint32, groups []uint32, want bool) {
		t.Helper()
		if got := canRead(t, m, "lab", uid, gid, groups...); got != want {
			t.Errorf("%s: uid %d gid %d groups %v: got %v, want %v", what, uid, gid, groups, got, want)
		}
	}
	check("default", Nobody, Nobody, nil, false)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(lab, 0o755))
	check("0755", Nobody, Nobody, nil, true)
	must(os.Chmod(lab, 0o750))
	check("0750", Nobody, Nobody, nil, false)
	must(os.Chown(lab, -1, staff))
	check("chgrp", Nobody, staff, nil, true)
	check("chgrp", Nobody, Nobody, []uint32{staff}, true)
	check("chgrp", Nobody, Nobody, []uint32{alice}, false)
	must(os.Chmod(lab, 0o700))
	must(os.Chown(lab, alice, -1))
	check("chown", alice, Nobody, nil, true)
	check("chown", Nobody, staff, nil, false)
	if st := m.Status("lab"); st["mode"] != "0700" || st["owner"] != "1701" || st["group"] != "1702" {
		t.Errorf("status %v", st)
	}
	// Mode 0000 is no mode to be replaced by another.
	must(os.Chmod(lab, 0))
	time.Sleep(1500 * time.Millisecond) // until the kernel asks again
	if got := modeOf(t, lab); got != fs.ModeDir {
		t.Errorf("mode %v, want d---------", got)
	}
	check("0000", alice, Nobody, nil, false)
	must(os.Chmod(lab, 0o700))
	// The owner may change the mode, others may not.
	RunCmd(t, AsUser(Command(t, 10*time.Second, "chmod", "0711", lab), alice, Nobody))
	if got := modeOf(t, lab); got != fs.ModeDir|0o711 {
		t.Errorf("mode %v, want drwx--x--x", got)
	}
	for _, args := range [][]string{{"chmod", "0777", lab}, {"chown", "65534", lab}} {
		if _, _, code := Output(t, AsUser(Command(t, 10*time.Second, args[0], args[1:]...), Nobody, Nobody)); code == 0 {
			t.Errorf("%v as nobody: got exit code 0", args)
		}
	}
	check("0711", Nobody, Nobody, nil, false)
	for _, stack := range []string{"kernel", "null"} {
		if !canRead(t, m, stack, Nobody, Nobody) {
			t.Errorf("%s: nobody cannot read it", stack)
		}
	}
	if _, _, code := Output(t, AsUser(Command(t, 10*time.Second, "cat", m.Path("ctl")), Nobody, Nobody)); code == 0 {
		t.Errorf("ctl: nobody can read it")
	}
}

func TestCtl(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"old"}})
	m.MustCtl("add x mode = \"0755\", addresses = [\"192.0.2.1/24\"]")
	if got := modeOf(t, m.Path("x")); got != fs.ModeDir|0o755 {
		t.Errorf("add: mode %v", got)
	}
	m.MustCtl("add none { backend = \"null\" }")
	if answer, err := m.Ctl("# a comment"); answer != "" || err != nil {
		t.Errorf("a comment: got %q, %v", answer, err)
	}
	s := mustSocketIn(t, m, "x")
	for _, c := range []struct {
		line  string
		errno syscall.Errno
		text  string
	}{
		{"add x", unix.EEXIST, "stack x: a stack of that name exists"},
		{"add kernel", unix.EEXIST, "stack kernel"},
		{"add tun", unix.EINVAL, `the name "tun" has a meaning of its own`},
		{"add", unix.EINVAL, `"" is no name for a stack`},
		{"add y colour = \"red\"", unix.EINVAL, "colour"},
		{"add y mode = 755", unix.EINVAL, "mode"},
		{"add y netns = \"nowhere-there\"", unix.ENOENT, "nowhere-there"},
		{"remove x", unix.EBUSY, "stack x is in use: 1 socket"},
		{"remove none-such", unix.ENOENT, "none-such: no such stack"},
		{"remove kernel", unix.EPERM, "stack kernel: the stack cannot be removed"},
		{"remove", unix.EINVAL, "remove NAME [force]"},
		{"remove x now", unix.EINVAL, "remove NAME [force]"},
		{"reload now", unix.EINVAL, "reload takes no argument"},
		{"umount now", unix.EINVAL, "umount [keep] [force]"},
		{"umount", unix.EBUSY, "stack x is in use: 1 socket"},
		{"frobnicate", unix.EINVAL, `unknown order "frobnicate" (add, remove, reload, umount)`},
	} {
		answer, err := m.Ctl(c.line)
		if !errors.Is(err, c.errno) {
			t.Errorf("%q: got %v, want %v", c.line, err, c.errno)
		}
		if text, ok := strings.CutPrefix(answer, "error: "); !ok || !strings.Contains(text, c.text) || strings.Count(text, "\n") != 1 {
			t.Errorf("%q: got answer %q, want error: ...%s...", c.line, answer, c.text)
		}
	}
	m.MustCtl("remove x force")
	if got := netnsCookieOf(t, s); got == "" {
		t.Error("the socket of a stack removed by force is broken")
	}
	if f, err := msocket.Socket(m.Path("x"), unix.AF_INET, unix.SOCK_STREAM, 0); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a socket in a stack removed by force: got %v, %v, want ENODEV", f, err)
	}
	s.Close()
	m.MustCtl("remove none")
	if got, want := names(t, m.Dir), []string{"ctl", "fast", "kernel", "null", "old"}; !slices.Equal(got, want) {
		t.Errorf("entries: got %q, want %q", got, want)
	}
}

func TestReload(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"old", "both"}, AllowLog: []string{"msg=reload"}})
	cookie := m.Status("both")["netns_cookie"]

	m.WriteConfig([]string{"new"}, "[stack.both]\nmode = \"0755\"\n")
	m.MustCtl("reload")
	if got, want := names(t, m.Dir), []string{"both", "ctl", "fast", "kernel", "new", "null"}; !slices.Equal(got, want) {
		t.Errorf("entries: got %q, want %q", got, want)
	}
	if got := m.Status("both")["netns_cookie"]; got != cookie {
		t.Errorf("both is another namespace after a change of its mode")
	}
	if got := modeOf(t, m.Path("both")); got != fs.ModeDir|0o755 {
		t.Errorf("both: mode %v, want drwxr-xr-x", got)
	}
	m.WriteConfig(nil, "[stack.both]\nmode = \"0755\"\n[stack.third]\ncolour = \"red\"\n")
	before := names(t, m.Dir)
	answer, err := m.Ctl("reload")
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(answer, m.Config+":5:") || !strings.Contains(answer, "colour") {
		t.Errorf("broken configuration: got %q, %v, want the file, line 5 and the key", answer, err)
	}
	if got := names(t, m.Dir); !slices.Equal(got, before) {
		t.Errorf("broken configuration: entries %q, want %q as before", got, before)
	}
	m.Signal(unix.SIGHUP)
	WaitFor(t, 5*time.Second, "the error of SIGHUP in the log", func() bool { return strings.Contains(m.Log(), "msg=reload") })

	s := mustSocketIn(t, m, "new")
	m.WriteConfig(nil, "[stack.both]\nmode = \"0755\"\n")
	if answer, err := m.Ctl("reload"); !errors.Is(err, unix.EBUSY) || !strings.Contains(answer, "new is in use") {
		t.Errorf("a stack in use is taken out: got %q, %v, want EBUSY", answer, err)
	}
	if _, err := os.Lstat(m.Path("new")); err != nil {
		t.Errorf("a stack in use is gone: %v", err)
	}
	s.Close()
	msocket.CloseIdle()
	m.MustCtl("reload")
	if _, err := os.Lstat(m.Path("new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("new: got %v, want ENOENT", err)
	}
	m.WriteConfig([]string{"after"}, "")
	m.Signal(unix.SIGHUP)
	WaitFor(t, 5*time.Second, "SIGHUP reloads", func() bool { return exists(m.Path("after")) })
}

func TestUnder(t *testing.T) {
	Require(t, treeNeeds...)
	dir := TempDir(t)
	for name, node := range map[string]struct {
		mode uint32
		dev  uint64
	}{
		"null-device": {unix.S_IFCHR | 0o600, unix.Mkdev(1, 3)},
		"tun":         {unix.S_IFCHR | 0o660, unix.Mkdev(10, 200)},
	} {
		if err := unix.Mknod(filepath.Join(dir, name), node.mode, int(node.dev)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("null-device", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	m := Mount(t, Config{Dir: dir})
	if got, want := names(t, dir), []string{"ctl", "fast", "file", "kernel", "link", "null", "null-device", "tun"}; !slices.Equal(got, want) {
		t.Errorf("entries: got %q, want %q", got, want)
	}
	// Only devices and links are passed on: the daemon opens nothing that
	// lies in a directory of somebody else's.
	if fi, err := os.Lstat(m.Path("file")); err != nil || fi.Size() != 4 || fi.Mode() != 0o644 {
		t.Errorf("file: got %v, %v", fi, err)
	}
	if b, err := os.ReadFile(m.Path("file")); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("open file: got %q, %v, want EOPNOTSUPP", b, err)
	}
	if to, err := os.Readlink(m.Path("link")); to != "null-device" || err != nil {
		t.Errorf("link: got %q, %v", to, err)
	}
	for _, path := range []string{"file", "null-device"} {
		if err := unix.Unlink(m.Path(path)); err != unix.EPERM {
			t.Errorf("unlink %s: got %v, want EPERM", path, err)
		}
	}
	null, err := os.OpenFile(m.Path("null-device"), os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("open a device: %v", err)
	}
	if n, err := null.Write([]byte("gone")); n != 4 || err != nil {
		t.Errorf("write to null: %d, %v", n, err)
	}
	if n, err := null.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read from null: %d, %v, want end of file", n, err)
	}
	null.Close()

	// What udev does reaches the real node.
	if err := os.Chmod(m.Path("null-device"), 0o666); err != nil {
		t.Errorf("chmod: %v", err)
	}
	if err := os.Chown(m.Path("null-device"), Nobody, Nobody); err != nil {
		t.Errorf("chown: %v", err)
	}
	checkTun(t, m.Path("tun"))
	if err := os.Mkdir(m.Path("file"), 0o700); !errors.Is(err, unix.EEXIST) {
		t.Errorf("mkdir over a file of the directory below: got %v, want EEXIST", err)
	}
	if code := m.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "null-device"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode != unix.S_IFCHR|0o666 || st.Uid != Nobody || st.Gid != Nobody {
		t.Errorf("the real node: mode %o, owner %d, group %d, want 20666 and nobody", st.Mode, st.Uid, st.Gid)
	}
}

// checkTun makes a TUN link by the node at path.
func checkTun(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		if _, err := os.Stat("/sys/class/misc/tun"); err != nil {
			t.Logf("no TUN driver here: %v", err)
			return
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Errorf("open tun: %v", err)
		return
	}
	defer f.Close()
	ifr, err := unix.NewIfreq("sft-tun%d")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr); err != nil {
		t.Errorf("TUNSETIFF: %v", err)
		return
	}
	Run(t, 10*time.Second, "ip", "link", "show", ifr.Name())
}

func TestNoDevAndReadOnly(t *testing.T) {
	Require(t, treeNeeds...)
	dir := TempDir(t)
	if err := unix.Mknod(filepath.Join(dir, "null-device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	m := Mount(t, Config{Dir: dir, Options: []string{"nodev"}})
	if f, err := os.Open(m.Path("null-device")); !errors.Is(err, unix.EACCES) {
		t.Errorf("nodev: open a device: got %v, %v, want EACCES", f, err)
	}
	ro := Mount(t, Config{Stacks: []string{"lab"}, Options: []string{"ro"}, AllowLog: []string{"umount"}})
	for what, err := range map[string]error{
		"mkdir": os.Mkdir(ro.Path("x"), 0o700),
		"rmdir": os.Remove(ro.Path("lab")),
		"chmod": os.Chmod(ro.Path("lab"), 0o755),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("ro: %s: got %v, want EROFS", what, err)
		}
	}
	if f, err := os.OpenFile(ro.Path("ctl"), os.O_RDWR, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("ro: open ctl: got %v, %v, want EROFS", f, err)
	}
	s := mustSocketIn(t, ro, "lab")
	s.Close()
	if code := ro.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
