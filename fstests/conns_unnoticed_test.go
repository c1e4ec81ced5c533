package fstests

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stackfs/stackfs/soccr/image"
)

// How often a connection is checkpointed, from both sides together. In repair
// mode it takes longer, since the kernel waits until no packet is under way.
const (
	unnoticedBPF    = 2000
	unnoticedRepair = 500 // for each of the programs: 2,000 in all
)

// unnoticedServer is how often the connections of a server are.
var unnoticedServer = map[string]int{"bpf": 2000, "repair": 200}

// A connsSite is a mount with two stacks that a cable connects.
type connsSite struct {
	*M
	here, far *NS
	engine    string
}

// newConnsSite mounts with a way to checkpoint: "bpf" or "repair".
func newConnsSite(t testing.TB, engine string, allowLog ...string) *connsSite {
	t.Helper()
	Require(t, Root, FUSE, NetAdmin, Kernel("5.14", "SO_NETNS_COOKIE"), Kernel("5.6", "pidfd_getfd"))
	s := &connsSite{engine: engine}
	s.here, s.far = Pair(t)
	s.M = Mount(t, Config{
		TOML: fmt.Sprintf("checkpoint = %q\nstate_dir = %q\n[stack.here]\nnetns = %q\n[stack.far]\nnetns = %q\n",
			engine, TempDir(t), s.here.Name, s.far.Name),
		AllowLog: allowLog,
	})
	if got := s.Status("here")["checkpoint"]; got != engine {
		t.Fatalf("status says checkpoint: %q, want %q", got, engine)
	}
	return s
}

// A side names one end of a connection.
type side struct {
	stack  string
	server bool
}

// A route is where the ends of an exchange are.
type route struct {
	server, client *NS
	address        netip.Addr
	sides          [2]side
}

// routes returns ways between the stacks: over the loopback and over the
// cable, in both families.
func (s *connsSite) routes() []route {
	loop := [2]side{{"here", true}, {"here", false}}
	cable := [2]side{{"far", true}, {"here", false}}
	return []route{
		{s.here, s.here, netip.MustParseAddr("127.0.0.1"), loop},
		{s.far, s.here, s.far.IP6, cable},
		{s.far, s.here, s.far.IP4, cable},
		{s.here, s.here, netip.IPv6Loopback(), loop},
	}
}

// connect starts an exchange on a route.
func (s *connsSite) connect(t testing.TB, x exchanger, r route, port int, opts ...string) *exchange {
	t.Helper()
	return startExchange(t, x, r.server, r.client, r.address, port, opts...)
}

// checkpointExchange checkpoints both sides of an exchange that has not
// begun, n times in all, while its bytes flow, and checks every image. Then
// the exchange ends; the longest stall of either side is returned.
func (s *connsSite) checkpointExchange(t testing.TB, e *exchange, r route, n int) time.Duration {
	t.Helper()
	paths, watches := [2]string{}, [2]*imageWatch{}
	for i, end := range r.sides {
		cookie := s.connOf(end.stack, e.port, end.server).cookie
		paths[i] = s.checkpointPath(end.stack, cookie)
		watches[i] = watchImages(t, s.checkpoint(end.stack, cookie), end.server, s.engine)
	}
	e.begin()
	start := time.Now()
	results := make(chan error, len(paths))
	for i := range paths {
		go func() {
			for range n / len(paths) {
				b, err := os.ReadFile(paths[i])
				if err == nil {
					err = watches[i].check(b)
				}
				if err != nil {
					results <- fmt.Errorf("checkpoint %d: %w", watches[i].images, err)
					return
				}
			}
			results <- nil
		}()
	}
	for range paths {
		select {
		case err := <-results:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(ScaleTime(3 * time.Minute)):
			t.Fatalf("%s: %d checkpoints are not done after %v", e.name, n, time.Since(start))
		}
	}
	took := time.Since(start)
	server, client := e.end()
	for i, w := range watches {
		sent, received := server.Sent, server.Received
		if !r.sides[i].server {
			sent, received = client.Sent, client.Received
		}
		// What the last image says was sent and received, was.
		if w.send.end > sent || w.recv.end > received {
			t.Errorf("%s: an image has %d bytes sent and %d received, the program %d and %d", e.name, w.send.end, w.recv.end, sent, received)
		}
		if w.full[0] == 0 || w.full[1] == 0 {
			t.Errorf("%s: of %d images %d had bytes to receive and %d bytes to send: the test shows nothing", e.name, w.images, w.full[0], w.full[1])
		}
	}
	t.Logf("%s: %d checkpoints in %v; longest stalls %v and %v; with data in the queues: %v %v", e.name, n, took.Round(time.Millisecond), server.gap(), client.gap(), watches[0].full, watches[1].full)
	return max(server.gap(), client.gap())
}

// undisturbed returns the longest stall of an exchange that nobody
// checkpoints.
func (s *connsSite) undisturbed(t testing.TB, e *exchange, d time.Duration) time.Duration {
	t.Helper()
	e.begin()
	time.Sleep(d)
	server, client := e.end()
	return max(server.gap(), client.gap())
}

// Two ways to be busy. steady leaves some time on two CPUs, so that a stall is
// ours and not the scheduler's, and the kernel's own buffers, which lose
// nothing. flooding has queues that are always full, and small buffers that
// overflow: bytes are dropped and come again without us too.
var (
	steady   = []string{"size=65536", "rate=50000000"}
	flooding = []string{"size=16384", "buf=131072"}
)

// unnoticedFloor is a stall that says nothing. Without checkpoints the
// longest of a steady exchange was 5 to 11 ms in runs on two CPUs, and up to
// 60 ms while other tests ran.
const unnoticedFloor = 50 * time.Millisecond

// stallTries is how often the longest stall is measured, both ways, before
// it is too long: something else on the machine may be the reason.
const stallTries = 5

func TestCheckpointsAreNotNoticedBPF(t *testing.T) {
	programs := exchangers(t)
	s := newConnsSite(t, "bpf")
	for i, x := range programs {
		t.Run(x.name, func(t *testing.T) {
			r := s.routes()[i]
			s.checkpointExchange(t, s.connect(t, x, r, 7000, flooding...), r, Scale(unnoticedBPF/4))
			stall := s.checkpointExchange(t, s.connect(t, x, r, 7001, steady...), r, Scale(unnoticedBPF))
			for try := range stallTries {
				quiet := s.undisturbed(t, s.connect(t, x, r, 7100+try, steady...), 2*time.Second)
				limit := max(3*quiet, unnoticedFloor)
				t.Logf("longest stall %v, %v without checkpoints", stall, quiet)
				if stall <= limit {
					return
				}
				stall = s.checkpointExchange(t, s.connect(t, x, r, 7200+try, steady...), r, Scale(unnoticedBPF/4))
			}
			t.Errorf("the longest stall is more than 3 times that without checkpoints and than %v, %d times in a row", unnoticedFloor, stallTries)
		})
	}
}

func TestCheckpointsAreNotNoticedRepair(t *testing.T) {
	programs := exchangers(t)
	s := newConnsSite(t, "repair")
	for i, x := range programs {
		t.Run(x.name, func(t *testing.T) {
			r := s.routes()[i]
			for k, opts := range [][]string{flooding, steady} {
				s.checkpointExchange(t, s.connect(t, x, r, 7000+k, opts...), r, Scale(unnoticedRepair/2))
			}
		})
	}
}

// checkpointServer checkpoints all connections of a port again and again, n
// times in all. Connections may end meanwhile.
func (s *connsSite) checkpointServer(t *testing.T, port, n int) {
	t.Helper()
	start, done, ended := time.Now(), 0, 0
	for done < n {
		if time.Since(start) > ScaleTime(time.Minute) {
			t.Fatalf("%d of %d checkpoints in %v", done, n, time.Since(start))
		}
		for _, row := range s.established("here", port) {
			if row.inode == "0" {
				continue // not accepted yet: nobody holds it who could be frozen
			}
			var b []byte
			err := Within(t, answerTime, "checkpoint of "+row.cookie, func() (err error) {
				b, err = os.ReadFile(s.checkpointPath("here", row.cookie))
				return err
			})
			if err != nil && !s.has("here", row.cookie, "established") {
				ended++
				continue
			}
			if err == nil {
				_, err = image.Decode(b)
			}
			if err != nil {
				t.Fatalf("checkpoint %d: %v: %s", done, err, s.whyNot("here", row.cookie))
			}
			done++
		}
	}
	t.Logf("%d checkpoints in %v, %d connections ended before theirs", done, time.Since(start).Round(time.Millisecond), ended)
}

// A repeated command is started again when it ends, until it is stopped.
type repeated struct {
	stop chan struct{}
	done chan struct{}
	runs int
	bad  []string
}

// repeat runs the command that prepare makes again and again. good judges
// what it printed.
func repeat(t *testing.T, prepare func() *exec.Cmd, good func(out string) bool) *repeated {
	t.Helper()
	r := &repeated{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for {
			select {
			case <-r.stop:
				return
			default:
			}
			out, err := prepare().CombinedOutput()
			r.runs++
			if err != nil || !good(string(out)) {
				r.bad = append(r.bad, fmt.Sprintf("%v\n%s", err, out))
				return
			}
		}
	}()
	t.Cleanup(func() { <-r.done })
	return r
}

// end stops it after the run that is under way. A bad run fails the test.
func (r *repeated) end(t *testing.T) {
	t.Helper()
	close(r.stop)
	<-r.done
	for _, bad := range r.bad {
		t.Errorf("run %d: %s", r.runs, bad)
	}
	t.Logf("%d runs", r.runs)
}

// wrkScript compares every answer with what nginx serves.
const wrkScript = `
local want = io.open(os.getenv("WANT"), "rb"):read("*a")
local threads = {}
bad = 0
function setup(thread) table.insert(threads, thread) end
function response(status, headers, body)
	if status ~= 200 or body ~= want then bad = bad + 1 end
end
function done(summary, latency, requests)
	local sum = 0
	for _, t in ipairs(threads) do sum = sum + t:get("bad") end
	io.write(string.format("answers %d bad %d\n", summary.requests, sum))
end
`

func TestCheckpointsUnderNginx(t *testing.T) {
	Require(t, Program("nginx"), Program("wrk"))
	for _, engine := range []string{"bpf", "repair"} {
		t.Run(engine, func(t *testing.T) {
			s := newConnsSite(t, engine)
			dir := TempDir(t)
			page, script, conf := filepath.Join(dir, "page"), filepath.Join(dir, "wrk.lua"), filepath.Join(dir, "nginx.conf")
			mustDo(t, os.WriteFile(page, streamTables()[streamFromServer][:100_000], 0o644))
			mustDo(t, os.WriteFile(script, []byte(wrkScript), 0o644))
			mustDo(t, os.WriteFile(conf, []byte(fmt.Sprintf(`daemon off; user root; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes 1;
events { worker_connections 64; }
http {
	access_log off; keepalive_requests 1000000000;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server { listen 127.0.0.1:8081; root %[1]s; }
}
`, dir)), 0o644))
			startBackground(t, s.here.Command(exchangeTime, "nginx", "-c", conf, "-e", dir+"/error.log"))
			s.listens(t, 8081)
			load := repeat(t, func() *exec.Cmd {
				cmd := s.here.Command(runTime, "wrk", "-t1", "-c8", "-d2s", "--timeout", "10s", "-s", script, "http://127.0.0.1:8081/page")
				cmd.Env = append(os.Environ(), "WANT="+page)
				return cmd
			}, func(out string) bool {
				return strings.Contains(out, " bad 0\n") && !strings.Contains(out, "Socket errors") && !strings.Contains(out, "Non-2xx")
			})
			s.checkpointServer(t, 8081, Scale(unnoticedServer[engine]))
			load.end(t)
			if text, err := os.ReadFile(dir + "/error.log"); err != nil || len(text) > 0 {
				t.Errorf("nginx's log: %v\n%s", err, text)
			}
		})
	}
}

func TestCheckpointsUnderRedis(t *testing.T) {
	Require(t, Program("redis-server"), Program("redis-benchmark"))
	for _, engine := range []string{"bpf", "repair"} {
		t.Run(engine, func(t *testing.T) {
			s := newConnsSite(t, engine)
			log := s.startRedis(t, s.here, "127.0.0.1")
			load := repeat(t, func() *exec.Cmd {
				return s.here.Command(runTime, "redis-benchmark", "-p", "6379", "-c", "8", "-n", "50000", "-d", "4000", "-P", "4", "-t", "set,get", "-q")
			}, func(out string) bool {
				return strings.Count(out, "requests per second") == 2 && !strings.Contains(strings.ToLower(out), "error")
			})
			s.checkpointServer(t, 6379, Scale(unnoticedServer[engine]))
			load.end(t)
			text, err := os.ReadFile(log)
			if err != nil || strings.Contains(string(text), "rror") {
				t.Errorf("redis' log: %v\n%s", err, text)
			}
		})
	}
}

// startRedis starts a server that keeps nothing, and returns its log.
func (s *connsSite) startRedis(t *testing.T, ns *NS, address string) (log string) {
	t.Helper()
	dir := TempDir(t)
	log = filepath.Join(dir, "log")
	startBackground(t, ns.Command(exchangeTime, "redis-server", "--bind", address, "--port", "6379", "--protected-mode", "no",
		"--save", "", "--appendonly", "no", "--dir", dir, "--logfile", log))
	WaitFor(t, 20*time.Second, "redis is ready", func() bool {
		text, _ := os.ReadFile(log)
		return strings.Contains(string(text), "Ready to accept connections")
	})
	return log
}

// listens waits until the stack here has a listener on a port.
func (s *connsSite) listens(t *testing.T, port int) {
	t.Helper()
	WaitFor(t, 20*time.Second, fmt.Sprint("a listener on port ", port), func() bool {
		for _, row := range s.conns("here") {
			if row.state == "listen" && strings.HasSuffix(row.local, fmt.Sprint(":", port)) {
				return true
			}
		}
		return false
	})
}
