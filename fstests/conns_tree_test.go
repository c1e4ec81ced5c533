package fstests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode/msocket"
)

// connFiles are the files of a connection, sorted.
var connFiles = []string{"checkpoint", "ctl", "info", "local", "remote", "status"}

// path returns a file of the connection.
func (k *talk) path(m *M, file ...string) string {
	return m.Path(append([]string{"here", "conns", k.conn}, file...)...)
}

// order writes to a file ctl and returns what the same open file then answers.
func order(t testing.TB, ctl, text string) (answer string, err error) {
	t.Helper()
	err = Within(t, answerTime, "ctl: "+text, func() error {
		f, err := os.OpenFile(ctl, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, werr := f.WriteString(text)
		b, rerr := io.ReadAll(f)
		answer = string(b)
		return errors.Join(werr, rerr)
	})
	return answer, err
}

// wantWithin waits for what the kernel may not know for a tick or two: how
// long it keeps the name of a connection at least.
func wantWithin(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !waitFor(200*time.Millisecond, ok) {
		t.Errorf("not within 200 ms: %s", what)
	}
}

func TestConnectionIsDirectory(t *testing.T) {
	s := newConnsSite(t, "bpf")
	k := s.startTalk(t, 7300)
	row := s.connOf("here", k.port, false)
	if got := names(t, s.Path("here", "conns")); !slices.Equal(got, []string{k.conn}) {
		t.Errorf("conns: got %q, want %s", got, k.conn)
	}
	if got := names(t, k.path(s.M)); !slices.Equal(got, connFiles) {
		t.Errorf("conns/%s: got %q, want %q", k.conn, got, connFiles)
	}
	if got := s.Read("here", "conns", k.conn, "local"); got != row.local+"\n" {
		t.Errorf("local: got %q, want %s", got, row.local)
	}
	if got, want := s.Read("here", "conns", k.conn, "remote"), fmt.Sprintf("%s:%d\n", k.address, k.port); got != want {
		t.Errorf("remote: got %q, want %q", got, want)
	}
	status := s.Read("here", "conns", k.conn, "status")
	if !strings.Contains(status, "state: established\n") || !strings.Contains(status, fmt.Sprintf("process: %d (python3)\n", k.here.pid())) {
		t.Errorf("status: got\n%s", status)
	}
	var info struct {
		Cookie  uint64
		State   string
		UID     int
		Process []string
	}
	if err := json.Unmarshal([]byte(s.Read("here", "conns", k.conn, "info")), &info); err != nil ||
		fmt.Sprint(info.Cookie) != k.conn || info.State != "established" || !slices.Equal(info.Process, []string{fmt.Sprintf("%d (python3)", k.here.pid())}) {
		t.Errorf("info: got %+v, %v", info, err)
	}

	// An image is read at any position, and is there until it is closed.
	f, err := os.Open(k.path(s.M, "checkpoint"))
	mustDo(t, err)
	defer f.Close()
	k.says(k.far, k.here, "still there")
	whole, err := io.ReadAll(f)
	mustDo(t, err)
	img, err := image.Decode(whole)
	if err != nil || fmt.Sprint(img.Conn.Meta.Cookie) != k.conn || !img.Conn.Meta.Live {
		t.Fatalf("checkpoint: %v, %+v", err, img)
	}
	part := make([]byte, 10)
	if n, err := f.ReadAt(part, int64(len(whole)-15)); err != nil || !bytes.Equal(part[:n], whole[len(whole)-15:len(whole)-5]) {
		t.Errorf("pread: got %x, %v", part[:n], err)
	}

	// Once the connection has ended, nothing that led to it leads anywhere.
	dir, err := os.Open(k.path(s.M))
	mustDo(t, err)
	defer dir.Close()
	if answer, err := order(t, k.path(s.M, "ctl"), "abort\n"); err != nil || answer != "ok\n" {
		t.Fatalf("abort: %q, %v", answer, err)
	}
	k.tell(k.far, "read")
	k.far.expect(t, "ConnectionResetError")
	wantWithin(t, "its directory is ENOENT", func() bool {
		_, err := os.Lstat(k.path(s.M))
		return errors.Is(err, unix.ENOENT)
	})
	if fd, err := unix.Openat(int(dir.Fd()), "local", unix.O_RDONLY, 0); err != unix.ENOENT {
		unix.Close(fd)
		t.Errorf("a file in its open directory: got %v, want ENOENT", err)
	}
	if got, err := dir.Readdirnames(-1); !errors.Is(err, unix.ESTALE) {
		t.Errorf("its open directory: got %q, %v, want ESTALE", got, err)
	}
	if n, err := f.ReadAt(part, 0); err != nil || !bytes.Equal(part[:n], whole[:10]) {
		t.Errorf("the open image: got %x, %v", part[:n], err)
	}
}

// TestListenersAndFamilies: listeners are apart, and each family has its
// addresses.
func TestListenersAndFamilies(t *testing.T) {
	s := newConnsSite(t, "bpf")
	t.Cleanup(msocket.CloseIdle)
	here := msocket.Stack{Path: s.Path("here"), Timeout: ScaleTime(10 * time.Second)}
	ctx := context.Background()
	l, err := here.Listen(ctx, "tcp", ":7310") // of both families
	mustDo(t, err)
	defer l.Close()
	want := map[string]bool{} // local and remote
	for _, to := range []string{"127.0.0.1:7310", "[::1]:7310"} {
		c, err := here.DialContext(ctx, "tcp", to)
		mustDo(t, err)
		defer c.Close()
		a, err := l.Accept()
		mustDo(t, err)
		defer a.Close()
		mine := c.LocalAddr().String()
		want[mine+" "+to] = true
		// The listener's socket is one of IPv6, whatever comes.
		mapped := func(addr string) string {
			if strings.HasPrefix(addr, "127.") {
				host, port, _ := strings.Cut(addr, ":")
				return "[::ffff:" + host + "]:" + port
			}
			return addr
		}
		want[mapped(to)+" "+mapped(mine)] = true
	}
	got := map[string]bool{}
	for _, name := range names(t, s.Path("here", "conns")) {
		local, remote := s.Read("here", "conns", name, "local"), s.Read("here", "conns", name, "remote")
		got[strings.TrimSpace(local)+" "+strings.TrimSpace(remote)] = true
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	list := names(t, s.Path("here", "listeners"))
	if len(list) != 1 {
		t.Fatalf("listeners: got %q, want one", list)
	}
	if got, want := names(t, s.Path("here", "listeners", list[0])), []string{"info", "local", "status"}; !slices.Equal(got, want) {
		t.Errorf("its files: got %q, want %q", got, want)
	}
	if got := s.Read("here", "listeners", list[0], "local"); got != "[::]:7310\n" {
		t.Errorf("local: got %q", got)
	}
	if got := s.Read("here", "listeners", list[0], "status"); !strings.Contains(got, "state: listen\n") {
		t.Errorf("status: got\n%s", got)
	}
	if _, err := os.Lstat(s.Path("here", "conns", list[0])); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the listener in conns: got %v, want ENOENT", err)
	}
}

// TestEndedConnectionIsShownAsTimeWait: such an entry says what it lacks.
func TestEndedConnectionIsShownAsTimeWait(t *testing.T) {
	s := newConnsSite(t, "bpf")
	t.Cleanup(msocket.CloseIdle)
	here := msocket.Stack{Path: s.Path("here"), Timeout: ScaleTime(10 * time.Second)}
	l, err := here.Listen(context.Background(), "tcp4", "127.0.0.1:7320")
	mustDo(t, err)
	defer l.Close()
	c, err := here.Dial("tcp4", "127.0.0.1:7320")
	mustDo(t, err)
	a, err := l.Accept()
	mustDo(t, err)
	c.Close()
	_, err = io.Copy(io.Discard, a)
	mustDo(t, err)
	a.Close()
	var ended string
	WaitFor(t, 10*time.Second, "a connection in time-wait", func() bool {
		for _, r := range s.conns("here") {
			if r.state == "time-wait" {
				ended = r.cookie
			}
		}
		return ended != ""
	})
	if got := s.Read("here", "conns", ended, "status"); !strings.Contains(got, "state: time-wait\n") || !strings.Contains(got, "lacks: ") {
		t.Errorf("status: got\n%s", got)
	}
	if _, err := os.ReadFile(s.checkpointPath("here", ended)); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("checkpoint: got %v, want EOPNOTSUPP", err)
	}
	if why := s.whyNot("here", ended); !strings.HasPrefix(why, "error: ") || !strings.Contains(why, "time-wait") {
		t.Errorf("the reason: %q", why)
	}
}

func TestWhoMayDoWhatWithConnection(t *testing.T) {
	s := newConnsSite(t, "bpf")
	mustDo(t, os.Chmod(s.Path("here"), 0o755))
	roots, his := s.startTalk(t, 7330), s.startTalk(t, 7331, Nobody)
	shell := func(uid uint32, script string) (string, error) {
		stdout, stderr, code := Output(t, AsUser(Command(t, answerTime, "sh", "-c", script), uid, uid))
		if code != 0 {
			return stdout, errors.New(strings.TrimSpace(stderr))
		}
		return stdout, nil
	}
	const other = 65533
	for _, tt := range []struct {
		k       *talk
		uid     uint32
		script  string
		refused string
	}{
		{roots, Nobody, "cat local remote status info", ""},
		{roots, Nobody, "cat checkpoint", "Permission denied"},
		{roots, Nobody, "echo abort > ctl", "Permission denied"},
		{roots, Nobody, "mkdir x", "Permission denied"},
		{roots, Nobody, "rm local", "Permission denied"}, // or not permitted
		{his, other, "cat local status", ""},
		{his, other, "cat checkpoint", "Permission denied"},
		{his, other, "cat ctl", "Permission denied"},
		{his, Nobody, "cat checkpoint > /dev/null", ""},
		{his, Nobody, "chmod 644 checkpoint", "not permitted"},
		{his, Nobody, "touch x", "Permission denied"},
		{his, Nobody, "echo bogus | dd of=ctl status=none", "Invalid argument"},
		{his, Nobody, `cat ctl | grep -q 'unknown command "bogus" (pause'`, ""},
		{his, Nobody, "echo pause 5 > ctl && grep -q '^paused: true' status && echo resume > ctl", ""},
	} {
		_, err := shell(tt.uid, "cd "+tt.k.path(s.M)+" && "+tt.script)
		switch {
		case tt.refused == "" && err != nil:
			t.Errorf("uid %d, %s: %v", tt.uid, tt.script, err)
		case tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused) && !strings.Contains(err.Error(), "not permitted")):
			t.Errorf("uid %d, %s: got %v, want %s", tt.uid, tt.script, err, tt.refused)
		}
	}
	// Who holds it is for its owner.
	for uid, want := range map[uint32]bool{Nobody: true, other: false} {
		text, err := shell(uid, "cat "+his.path(s.M, "status"))
		if got := strings.Contains(text, "process: "); err != nil || got != want {
			t.Errorf("status for uid %d names the process: %v, %v, want %v", uid, got, err, want)
		}
	}
	// Root too makes and removes nothing there.
	for what, do := range map[string]func() error{
		"mkdir":  func() error { return os.Mkdir(s.Path("here", "conns", "1"), 0o700) },
		"create": func() error { return os.WriteFile(his.path(s.M, "x"), nil, 0o600) },
		"unlink": func() error { return unix.Unlink(his.path(s.M, "local")) },
		"rmdir":  func() error { return unix.Rmdir(his.path(s.M)) },
		"rename": func() error { return os.Rename(his.path(s.M), s.Path("here", "conns", "1")) },
		"chown":  func() error { return os.Chown(his.path(s.M, "ctl"), 0, 0) },
		"mknod":  func() error { return unix.Mknod(s.Path("here", "listeners", "1"), unix.S_IFIFO|0o600, 0) },
		"link":   func() error { return os.Link(his.path(s.M, "local"), his.path(s.M, "x")) },
	} {
		if err := Within(t, answerTime, what, do); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			t.Errorf("%s as root: got %v, want EPERM", what, err)
		}
	}
	// The file restore needs what opening the directory does.
	for mode, want := range map[os.FileMode]os.FileMode{0o755: 0o666, 0o750: 0o660, 0o700: 0o600} {
		mustDo(t, os.Chmod(s.Path("here"), mode))
		wantWithin(t, fmt.Sprintf("restore of a stack of mode %o has mode %o", mode, want), func() bool {
			return modeOf(t, s.Path("here", "restore")) == want
		})
	}
	mustDo(t, os.Chmod(s.Path("here"), 0o755))
	roots.says(roots.far, roots.here, "unharmed")
	his.says(his.far, his.here, "unharmed")
	if _, err := shell(Nobody, "echo abort > "+his.path(s.M, "ctl")); err != nil {
		t.Errorf("abort by its owner: %v", err)
	}
	his.tell(his.far, "read")
	his.far.expect(t, "ConnectionResetError")
}

func TestVisibilityOfConnections(t *testing.T) {
	Require(t, treeNeeds...)
	ns := NetNS(t, "192.0.2.1/24")
	m := Mount(t, Config{TOML: fmt.Sprintf("state_dir = %q\n", TempDir(t)) + fmt.Sprintf(
		"[stack.own]\nnetns = %q\nmode = \"0755\"\nconnections = \"own\"\n[stack.off]\nnetns = %q\nmode = \"0755\"\nconnections = \"off\"\n", ns.Name, ns.Name)})
	var listeners []string
	inNamespace(t, ns, func() error {
		for _, uid := range []int{0, Nobody} {
			f, err := socketListen(uid)
			if err != nil {
				return err
			}
			t.Cleanup(func() { f.Close() })
		}
		return nil
	})
	list := func(uid uint32, stack string) []string {
		return strings.Fields(RunCmd(t, AsUser(Command(t, answerTime, "ls", m.Path(stack, "listeners")), uid, uid)))
	}
	if listeners = list(0, "own"); len(listeners) != 2 {
		t.Fatalf("root sees %q, want 2 listeners", listeners)
	}
	his := list(Nobody, "own")
	if len(his) != 1 {
		t.Fatalf("nobody sees %q, want 1 listener", his)
	}
	i := slices.Index(listeners, his[0])
	roots := listeners[1-i]
	// As soon as root has looked at it the kernel knows the name.
	script := fmt.Sprintf("stat %s", m.Path("own", "listeners", roots))
	for range 20 {
		m.Read("own", "listeners", roots, "local")
		if _, stderr, code := Output(t, AsUser(Command(t, answerTime, "sh", "-c", "cat "+m.Path("own", "listeners", roots, "local")), Nobody, Nobody)); code == 0 || !strings.Contains(stderr, "No such file") && !strings.Contains(stderr, "Stale") {
			t.Fatalf("nobody reads root's: exit code %d, %q", code, stderr)
		}
	}
	if _, stderr, code := Output(t, AsUser(Command(t, answerTime, "sh", "-c", script), Nobody, Nobody)); code == 0 {
		t.Errorf("nobody looks at root's: %q", stderr)
	}
	for _, name := range []string{"connections", "conns", "listeners"} {
		if _, err := os.Lstat(m.Path("off", name)); !errors.Is(err, unix.ENOENT) {
			t.Errorf("off: %s: got %v, want ENOENT", name, err)
		}
	}
}

// socketListen makes a listener of a user in the namespace of the thread.
func socketListen(uid int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "listener")
	return f, errors.Join(unix.Fchown(fd, uid, uid), unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}}), unix.Listen(fd, 1))
}

// TestHoldEndsWithItsHolder: however he ends.
func TestHoldEndsWithItsHolder(t *testing.T) {
	s := newConnsSite(t, "bpf")
	k := s.startTalk(t, 7340)
	paused := func() bool { return strings.Contains(s.Read("here", "conns", k.conn, "status"), "paused: true\n") }
	for how, end := range map[string]func(cmd *exec.Cmd, in io.Closer) error{
		"closes":    func(_ *exec.Cmd, in io.Closer) error { return in.Close() },
		"is killed": func(cmd *exec.Cmd, _ io.Closer) error { return cmd.Process.Signal(syscall.SIGKILL) },
	} {
		cmd := Command(t, exchangeTime, "sh", "-c", `exec 3<>"$1"; echo hold >&3; exec 4>&3 4>&-; read line; exec 3>&-; sleep 60`, "sh", k.path(s.M, "ctl"))
		in, err := cmd.StdinPipe()
		mustDo(t, err)
		mustDo(t, cmd.Start())
		WaitFor(t, 10*time.Second, "the connection to be held", paused)
		if _, err := order(t, k.path(s.M, "ctl"), "pause\n"); !errors.Is(err, unix.EBUSY) {
			t.Errorf("pause of what is held: got %v, want EBUSY", err)
		}
		if img, err := image.Decode(s.checkpoint("here", k.conn)); err != nil || img.Conn.Meta.Live {
			t.Errorf("the image of what is held: %v, want one that is final", err)
		}
		mustDo(t, end(cmd, in))
		if !waitFor(letGoTime, func() bool { return !paused() }) {
			t.Fatalf("its holder %s: held still after %v", how, letGoTime)
		}
		if err := frozen(k.here.pid()); err != nil {
			t.Errorf("its holder %s: %v", how, err)
		}
		k.says(k.far, k.here, "goes on")
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
}

// TestGoClientRestores: a connection that was held, saved and released goes
// on in this process.
func TestGoClientRestores(t *testing.T) {
	s := newConnsSite(t, "bpf")
	t.Cleanup(msocket.CloseIdle)
	k := s.startTalk(t, 7350)
	ctx, cancel := context.WithTimeout(context.Background(), ScaleTime(20*time.Second))
	defer cancel()
	here := s.Path("here")

	live := s.checkpoint("here", k.conn)
	for what, tt := range map[string]struct {
		path  string
		image []byte
		want  error
		text  string
	}{
		"a connection that is there": {here, live, unix.EADDRINUSE, "has a connection from"},
		"without the address":        {s.Path("kernel"), live, unix.EADDRNOTAVAIL, "has not the address"},
		"a flipped byte":             {here, flipped(live), unix.EBADMSG, "digest does not match"},
		"no image":                   {here, []byte("image"), unix.EBADMSG, "image"},
		"nothing":                    {here, nil, unix.EBADMSG, "is empty"},
		"no stack":                   {s.Dir, live, unix.ENOTSUP, "not a stack"},
		"no stack of that name":      {s.Path("none"), live, unix.ENOENT, "no such file"},
		"a stack without sockets":    {s.Path("null"), live, unix.EOPNOTSUPP, "cannot restore"},
	} {
		f, err := msocket.Restore(ctx, tt.path, bytes.NewReader(tt.image))
		var op *msocket.OpError
		if f != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || !errors.As(err, &op) || op.Op != "restore" {
			t.Errorf("%s: got %v, %v, want %v with %q", what, f, err, tt.want, tt.text)
		}
	}
	ended, cancelEnded := context.WithCancel(ctx)
	cancelEnded()
	if f, err := msocket.Restore(ended, here, bytes.NewReader(live)); f != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: got %v, %v", f, err)
	}
	k.says(k.far, k.here, "not noticed")

	k.tell(k.far, "send unread")
	WaitFor(t, 10*time.Second, "the bytes to arrive", func() bool { return s.connOf("here", k.port, false).recvQ == 7 })
	ctl, err := os.OpenFile(k.path(s.M, "ctl"), os.O_RDWR, 0)
	mustDo(t, err)
	defer ctl.Close()
	_, err = ctl.WriteString("hold\n")
	mustDo(t, err)
	// What was opened while it was held is the image, though the connection
	// has gone then.
	final, err := os.Open(k.path(s.M, "checkpoint"))
	mustDo(t, err)
	defer final.Close()
	_, err = ctl.WriteString("release\n")
	mustDo(t, err)
	f, err := msocket.Restore(ctx, here, final)
	mustDo(t, err)
	defer f.Close()
	conn, err := net.FileConn(f)
	mustDo(t, err)
	defer conn.Close()
	mustDo(t, conn.SetDeadline(time.Now().Add(ScaleTime(20*time.Second))))
	if got := conn.LocalAddr().String(); got != strings.TrimSpace(s.Read("here", "conns", strconv.FormatUint(socketCookie(t, f), 10), "local")) {
		t.Errorf("the restored socket is %s", got)
	}
	line := make([]byte, 7)
	if _, err := io.ReadFull(conn, line); err != nil || string(line) != "unread\n" {
		t.Errorf("read %q, %v", line, err)
	}
	_, err = conn.Write([]byte("from the new owner\n"))
	mustDo(t, err)
	k.tell(k.far, "read")
	k.far.expect(t, "from the new owner")
}

func flipped(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// socketCookie returns the SO_COOKIE of a socket.
func socketCookie(t *testing.T, f *os.File) (cookie uint64) {
	t.Helper()
	rc, err := f.SyscallConn()
	mustDo(t, err)
	cerr := rc.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	})
	mustDo(t, errors.Join(cerr, err))
	return cookie
}
