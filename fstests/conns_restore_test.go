package fstests

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stackfs/stackfs/soccr/image"
)

// moveAddress moves the cable's end with its address from one namespace to
// another.
func moveAddress(from, to *NS) {
	from.IP("link", "set", "eth0", "netns", to.Name)
	to.IP("addr", "add", from.IP4.String()+"/24", "dev", "eth0")
	to.IP("link", "set", "eth0", "up")
}

// line reads a line of JSON that the program prints.
func (p *party) line(t testing.TB, v any) {
	t.Helper()
	err := Within(t, runTime, strings.Join(p.cmd.Args, " ")+" prints a line", func() error {
		if !p.lines.Scan() {
			return io.ErrUnexpectedEOF
		}
		return json.Unmarshal(p.lines.Bytes(), v)
	})
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(p.cmd.Args, " "), err)
	}
}

// signalRedis sends the server in a namespace a signal and waits for what
// that does.
func signalRedis(t *testing.T, log string, sig syscall.Signal, state string) {
	t.Helper()
	// "25703:M 25 Nov 2026 ... * Ready to accept connections"
	text, err := os.ReadFile(log)
	mustDo(t, err)
	number, _, _ := strings.Cut(string(text), ":")
	pid, err := strconv.Atoi(number)
	mustDo(t, err)
	mustDo(t, syscall.Kill(pid, sig))
	WaitFor(t, 10*time.Second, "redis is in state "+state, func() bool {
		return strings.Contains(state, tasks(pid, "State")[0][:1])
	})
}

// A client of redis ends in the middle of a request and of a reply, with
// bytes in both queues, while redis sends more. Its connection goes on in
// another process, on another stack that gets the address: redis sees one
// client all the time and each byte once.
//
// A kernel that has the address and not the connection answers with a reset.
// So the old link goes down before the connection is taken away, and the new
// one comes up after it is there; until then a link to nowhere has the address.
func TestRedisClientMovesToAnotherStack(t *testing.T) {
	Require(t, Program("redis-server"), Program("/usr/bin/python3"))
	for _, engine := range []string{"bpf", "repair"} {
		t.Run(engine, func(t *testing.T) {
			s := newConnsSite(t, engine)
			there := NetNS(t)
			s.MustCtl(fmt.Sprintf("add there {netns = %q}", there.Name))
			log := s.startRedis(t, s.far, s.far.IP4.String())
			script := mustAbs(t, filepath.Join("testdata", "conns", "moved.py"))

			first := startParty(t, s.here.Command(runTime, "/usr/bin/python3", "-B", script, "begin", s.far.IP4.String()), "stop redis")
			signalRedis(t, log, syscall.SIGSTOP, "T")
			fmt.Fprintln(first.in)
			var at struct{ Sent, Received, ID, Requests, Replies int }
			first.line(t, &at)
			if at.Sent >= at.Requests {
				t.Fatalf("all %d bytes of the requests fit into the queue: the test shows nothing", at.Sent)
			}

			row := s.connOf("here", 6379, false)
			s.here.IP("link", "set", "eth0", "down")
			signalRedis(t, log, syscall.SIGCONT, "SR")
			file := filepath.Join(TempDir(t), "conn.img")
			RunCmd(t, s.Command("checkpoint", "--move", "-o", file, s.Path("here", "conns", row.cookie)))
			fmt.Fprintln(first.in)
			var left struct{ End string }
			if first.line(t, &left); left.End != "ECONNABORTED" {
				t.Errorf("the old owner sees %s, want ECONNABORTED", left.End)
			}
			for _, r := range s.established("here", 6379) {
				t.Errorf("still there: %+v", r)
			}
			text, err := os.ReadFile(file)
			mustDo(t, err)
			img, err := image.Decode(text)
			mustDo(t, err)
			if img.Conn.Meta.Live {
				t.Error("the image of a connection that has moved is marked as live")
			}
			if got, want := len(img.Conn.Recv), at.Replies-at.Received; got != want || len(img.Conn.Send) == 0 {
				t.Errorf("the image has %d and %d bytes in its queues, want %d and some", got, len(img.Conn.Send), want)
			}

			address := s.here.IP4.String() + "/24"
			there.IP("link", "add", "wait", "type", "veth", "peer", "name", "nowhere")
			there.IP("link", "set", "wait", "up")
			there.IP("link", "set", "nowhere", "up")
			there.IP("addr", "add", address, "dev", "wait")
			heir := startParty(t, Command(t, runTime, s.bin, "restore", file, s.Path("there"), "--", "/usr/bin/python3", "-B", script,
				"go", fmt.Sprint(at.Sent), fmt.Sprint(at.Received), fmt.Sprint(at.ID)), "restored")
			s.here.IP("link", "set", "eth0", "netns", there.Name)
			there.IP("link", "del", "wait")
			there.IP("addr", "add", address, "dev", "eth0")
			there.IP("link", "set", "eth0", "up")
			heir.expect(t, "all bytes")
			if out := redisCLI(t, s.far, "-h", s.far.IP4.String(), "info", "stats"); !strings.Contains(out, "total_connections_received:2\r\n") {
				t.Errorf("redis has seen other connections than the one and ours:\n%s", out)
			}
		})
	}
}

func redisCLI(t *testing.T, ns *NS, args ...string) string {
	t.Helper()
	Require(t, Program("redis-cli"))
	return RunCmd(t, ns.Command(runTime, "redis-cli", args...))
}
