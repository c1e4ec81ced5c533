package fstests

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A talk is a connection between two programs that do what they are told.
type talk struct {
	t            testing.TB
	here, far    *party
	address      netip.Addr
	port         int
	conn, listed string // of here: its number, and its line of stackfs conns
}

// startTalk connects a program on the stack here, of root or of the user uid,
// with one that listens far.
func (s *connsSite) startTalk(t testing.TB, port int, uid ...uint32) *talk {
	t.Helper()
	k := &talk{t: t, address: s.far.IP4, port: port}
	k.far = startParty(t, s.talker(t, s.far, "listen", port), "ready")
	here := s.talker(t, s.here, "connect", port)
	if len(uid) > 0 {
		i := slices.Index(here.Args, "/usr/bin/python3")
		here.Args = slices.Insert(here.Args, i, "setpriv", fmt.Sprintf("--reuid=%d", uid[0]), fmt.Sprintf("--regid=%d", uid[0]), "--clear-groups")
	}
	k.here = startParty(t, here, "connected")
	k.far.expect(t, "connected")
	k.listed = strings.TrimSpace(RunCmd(t, s.Command("conns", "--no-header", "--dport", fmt.Sprint(port), s.Path("here"))))
	fields := strings.Fields(k.listed)
	if len(fields) != 7 {
		t.Fatalf("conns lists %q, want one connection", k.listed)
	}
	k.conn = fields[6]
	return k
}

// talker prepares talk.py, whose address is that of the far end.
func (s *connsSite) talker(t testing.TB, ns *NS, role string, port int, args ...string) *exec.Cmd {
	t.Helper()
	Require(t, Program("/usr/bin/python3"))
	argv := []string{"-B", mustAbs(t, filepath.Join("testdata", "conns", "talk.py")), role, s.far.IP4.String(), fmt.Sprint(port)}
	return ns.Command(exchangeTime, "/usr/bin/python3", append(argv, args...)...)
}

// tell gives a side an order.
func (k *talk) tell(p *party, format string, args ...any) {
	k.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		k.t.Fatal(err)
	}
}

// says tells one side to send a line, and the other to read it.
func (k *talk) says(from, to *party, text string) {
	k.t.Helper()
	k.tell(from, "send %s", text)
	k.tell(to, "read")
	to.expect(k.t, text)
}

func TestConnsListsAConnection(t *testing.T) {
	s := newConnsSite(t, "bpf")
	k := s.startTalk(t, 7300)
	k.tell(k.far, "send hello")
	far := fmt.Sprintf("%s:%d", s.far.IP4, k.port)
	WaitFor(t, 10*time.Second, "the bytes to arrive", func() bool { return s.connOf("here", k.port, false).recvQ == 6 })

	want := []string{"established", "6", "0", s.here.IP4.String(), far, "root", k.conn}
	for _, args := range [][]string{
		{"--remote", far}, {"--local", "192.0.2.0/24"}, {"--state", "connected", "-4"}, {"--pid", fmt.Sprint(k.here.pid())}, {"-a", "--user", "0"},
	} {
		got := strings.Fields(RunCmd(t, s.Command(append(append([]string{"conns", "--no-header"}, args...), s.Path("here"))...)))
		if len(got) == 7 {
			got[3], _, _ = strings.Cut(got[3], ":")
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("conns %q: got %q, want %q", args, got, want)
		}
	}
	if out := RunCmd(t, s.Command("conns", "--no-header", "-6", s.Path("here"))); out != "" {
		t.Errorf("conns -6: got %q, want nothing", out)
	}
	var list []struct {
		Cookie    uint64
		State     string
		Remote    netip.AddrPort
		Processes []struct {
			PID     int
			Command string
		}
	}
	text := RunCmd(t, s.Command("conns", "-j", "-p", s.Path("here")))
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != 1 || fmt.Sprint(list[0].Cookie) != k.conn ||
		len(list[0].Processes) != 1 || list[0].Processes[0].PID != k.here.pid() || list[0].Processes[0].Command != "python3" {
		t.Errorf("conns -j -p: got %v and\n%s\nwant one connection of process %d", err, text, k.here.pid())
	}
	details := RunCmd(t, s.Command("conns", s.Path("here", "conns", k.conn)))
	if !strings.Contains(details, "  recv-q:") || !strings.Contains(details, fmt.Sprintf("%d (python3)", k.here.pid())) {
		t.Errorf("details: got\n%s", details)
	}
}

func TestCheckpointIsReadByInspect(t *testing.T) {
	s := newConnsSite(t, "bpf")
	k := s.startTalk(t, 7300)
	k.tell(k.far, "send hello")
	WaitFor(t, 10*time.Second, "the bytes to arrive", func() bool { return s.connOf("here", k.port, false).recvQ == 6 })
	image := RunCmd(t, s.Command("checkpoint", s.Path("here"), k.conn))
	cmd := s.Command("inspect", "--hexdump=64", "-")
	cmd.Stdin = strings.NewReader(image)
	if out := RunCmd(t, cmd); !strings.Contains(out, "established") || !strings.Contains(out, "hello") {
		t.Errorf("inspect: got\n%s\nwant the state and the queue", out)
	}
	k.tell(k.here, "read")
	k.here.expect(t, "hello")
}

func TestUnsaveableConnectionSaysWhy(t *testing.T) {
	s := newConnsSite(t, "bpf")
	k := s.startTalk(t, 7300)
	k.tell(k.far, "urgent abc")
	WaitFor(t, 10*time.Second, "the bytes to arrive", func() bool { return s.connOf("here", k.port, false).recvQ > 0 })
	for _, args := range [][]string{{}, {"--move"}} {
		stdout, stderr, code := Output(t, s.Command(append(append([]string{"checkpoint"}, args...), s.Path("here"), k.conn)...))
		if want := "stackfs: conn " + k.conn + ": not saveable: 1 byte of urgent data"; code != 8 || stdout != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("%q: got code %d and %q, want 8 and %q", args, code, stderr, want)
		}
	}
	k.says(k.here, k.far, "it goes on")
}

func TestCheckpointAllOfAStack(t *testing.T) {
	s := newConnsSite(t, "bpf")
	const n = 200
	startParty(t, s.talker(t, s.far, "farm", 7301, fmt.Sprint(n/2)), "ready")
	k := s.startTalk(t, 7300)
	dir := filepath.Join(TempDir(t), "images")
	out := RunCmd(t, s.Command("checkpoint", "--all", "--port", "7301", s.Path("far"), dir))
	if want := fmt.Sprintf("saved %d of %d connections in %s", n, n, dir); !strings.HasPrefix(out, want) {
		t.Errorf("got %q, want %q", out, want)
	}
	if files := names(t, dir); len(files) != n {
		t.Errorf("got %d files, want %d", len(files), n)
	}
	k.tell(k.here, "urgent x")
	WaitFor(t, 10*time.Second, "the byte to arrive", func() bool { return s.connOf("far", k.port, true).recvQ > 0 })
	stdout, stderr, code := Output(t, s.Command("checkpoint", "--all", s.Path("far"), dir))
	if code != 9 || !strings.Contains(stdout, fmt.Sprintf("saved %d of %d ", n, n+1)) || !strings.Contains(stderr, ": not saveable: 1 byte of urgent data\n") {
		t.Errorf("got code %d, %q and %q, want 9 and the one that was not saved", code, stdout, stderr)
	}
}

// A connection moves with its address to another namespace, where cat is its
// program and then an inetd service.
func TestMovedConnectionIsRestoredForAProgram(t *testing.T) {
	for _, engine := range []string{"bpf", "repair"} {
		t.Run(engine, func(t *testing.T) {
			s := newConnsSite(t, engine)
			there := NetNS(t)
			s.MustCtl(fmt.Sprintf("add there {netns = %q}", there.Name))
			k := s.startTalk(t, 7300)
			k.says(k.here, k.far, "first")
			k.tell(k.far, "send unread")
			WaitFor(t, 10*time.Second, "the bytes to arrive", func() bool { return s.connOf("here", k.port, false).recvQ == 7 })

			file := filepath.Join(TempDir(t), "conn.img")
			RunCmd(t, s.Command("checkpoint", "--move", "-o", file, s.Path("here"), k.conn))
			k.tell(k.here, "read")
			k.here.expect(t, "ConnectionAbortedError")
			if out := RunCmd(t, s.Command("restore", "--check", file, s.Path("there"))); !strings.Contains(out, "established, 7 bytes received") {
				t.Errorf("--check: got %q", out)
			}
			_, stderr, code := Output(t, s.Command("restore", file, s.Path("there"), "--", "true"))
			if code != 125 || !strings.Contains(stderr, s.here.IP4.String()) {
				t.Errorf("without the address: got code %d and %q, want 125 and the address", code, stderr)
			}
			moveAddress(s.here, there)

			// A program that cannot be started lets go of it silently.
			script := filepath.Join(TempDir(t), "script")
			mustDo(t, os.WriteFile(script, []byte("no magic"), 0o755))
			_, stderr, code = Output(t, s.Command("restore", file, s.Path("there"), "--", script))
			if code != 126 || !strings.Contains(stderr, "the peer noticed nothing") {
				t.Errorf("got code %d and %q, want 126", code, stderr)
			}

			service := startRestored(t, s, "--inetd", file, s.Path("there"), "--", "/bin/sh", "-c", `read line; echo "got $line"; exec cat`)
			k.tell(k.far, "read")
			k.far.expect(t, "got unread")
			k.says(k.far, k.far, "echo")
			// While the connection is nowhere the address is not there either, and
			// before there is a socket for it again nothing may come: a late
			// acknowledgement of the peer would be answered with a reset.
			WaitFor(t, 10*time.Second, "the peer to acknowledge all", func() bool {
				rows := s.conns("there")
				return len(rows) == 1 && rows[0].sendQ == 0
			})
			there.IP("addr", "del", s.here.IP4.String()+"/24", "dev", "eth0")
			RunCmd(t, s.Command("checkpoint", "--move", "-o", file, s.Path("there"), onlyConn(t, s, "there")))
			if err := Within(t, runTime, "cat to end", service.Wait); err == nil {
				t.Error("cat ended well, want an error of its connection")
			}

			there.IP("addr", "add", s.here.IP4.String()+"/24", "dev", "eth0")
			service = startRestored(t, s, file, s.Path("there"), "--", "/bin/sh", "-c",
				`read line <&3; echo "$LISTEN_FDS $LISTEN_FDNAMES $line" >&3`)
			onlyConn(t, s, "there")
			k.tell(k.far, "send second")
			k.tell(k.far, "read")
			k.far.expect(t, "1 connection second")
			mustDo(t, Within(t, runTime, "the program to end", service.Wait))
			k.tell(k.far, "read")
			k.far.expect(t, "end")
		})
	}
}

// startRestored starts "stackfs restore args...", which becomes a program.
func startRestored(t testing.TB, s *connsSite, args ...string) *exec.Cmd {
	t.Helper()
	cmd := Command(t, exchangeTime, s.bin, append([]string{"restore"}, args...)...)
	cmd.Stderr = os.Stderr
	startBackground(t, cmd)
	return cmd
}

// onlyConn waits until a stack has one connection, and returns its number.
func onlyConn(t testing.TB, s *connsSite, stack string) (cookie string) {
	t.Helper()
	WaitFor(t, 10*time.Second, "a connection on "+stack, func() bool {
		rows := s.conns(stack)
		if len(rows) == 1 && rows[0].state == "established" {
			cookie = rows[0].cookie
		}
		return cookie != ""
	})
	return cookie
}

// A pipe leads from one program to the next within a stack: what reads the
// image begins when the connection is gone. An ordinary user does that with
// his own connection, by the seal of its image; and once.
func TestMoveThroughAPipe(t *testing.T) {
	for name, uid := range map[string]uint32{"root": 0, "user": Nobody} {
		t.Run(name, func(t *testing.T) {
			s := newConnsSite(t, "bpf")
			mustDo(t, os.Chmod(s.Path("here"), 0o755))
			k := s.startTalk(t, 7300, uid)
			const line = `"$0" checkpoint --move "$1" "$2" | tee "$3" | "$0" restore --inetd - "$1" -- cat`
			dir := TempDir(t)
			mustDo(t, os.Chown(dir, int(uid), int(uid)))
			file := filepath.Join(dir, "copy")
			cmd := Command(t, exchangeTime, "/bin/sh", "-c", line, s.bin, s.Path("here"), k.conn, file)
			cmd.Stderr = os.Stderr
			startBackground(t, AsUser(cmd, uid, uid))
			WaitFor(t, 10*time.Second, "another socket to have the connection", func() bool {
				rows := s.established("here", k.port)
				return len(rows) == 1 && rows[0].cookie != k.conn && rows[0].uid == fmt.Sprint(uid)
			})
			k.says(k.far, k.far, "through cat")
			if uid == 0 {
				return
			}
			again := AsUser(s.Command("restore", file, s.Path("here"), "--", "cat"), uid, uid)
			if _, stderr, code := Output(t, again); code != 125 || !strings.Contains(stderr, "can be done once") {
				t.Errorf("restored a second time: got code %d and %q, want 125 and why", code, stderr)
			}
			other := AsUser(s.Command("checkpoint", s.Path("here"), s.connOf("here", k.port, false).cookie), uid-1, uid-1)
			if _, stderr, code := Output(t, other); code != 6 || !strings.Contains(stderr, "only its owner and root may") {
				t.Errorf("checkpoint by another user: got code %d and %q, want 6", code, stderr)
			}
		})
	}
}

// The command is killed while it holds a connection, and cannot write its
// image: the pipe is full.
func TestKilledMoveLetsTheConnectionGoOn(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			s := newConnsSite(t, "bpf")
			k := s.startTalk(t, 7300)
			k.tell(k.here, "fill")
			WaitFor(t, 10*time.Second, "a queue larger than a pipe", func() bool { return s.connOf("here", k.port, false).sendQ > 1<<17 })
			cmd := s.Command("checkpoint", "--move", s.Path("here"), k.conn)
			out, err := cmd.StdoutPipe()
			mustDo(t, err)
			startBackground(t, cmd)
			if _, err := io.ReadFull(out, make([]byte, 16)); err != nil {
				t.Fatal(err)
			}
			if frozen(k.here.pid()) == nil {
				t.Error("the owner runs while the connection is held")
			}
			mustDo(t, cmd.Process.Signal(sig))
			_ = Within(t, answerTime, "the command to end", cmd.Wait)
			WaitFor(t, time.Second, "the owner to run again", func() bool { return frozen(k.here.pid()) == nil })
			if !s.has("here", k.conn, "established") {
				t.Error("the connection is gone")
			}
			k.says(k.far, k.here, "still here")
		})
	}
}
