package fstests

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// An askedServer is an unmodified server in the namespace.
type askedServer struct {
	s    *fastSite
	addr netip.AddrPort
}

// startAsked starts a server and waits until it answers.
func (s *fastSite) startAsked(port uint16, cmd *exec.Cmd) *askedServer {
	s.t.Helper()
	startBackground(s.t, cmd)
	a := &askedServer{s, netip.AddrPortFrom(fastV4, port)}
	a.answers()
	return a
}

func (a *askedServer) answers() {
	a.s.t.Helper()
	WaitFor(a.s.t, 20*time.Second, "the server to answer", func() bool {
		_, err := ask(a.s.ns, -1, a.addr, 1)
		return err == nil
	})
}

// storm makes connections from every CPU until stop, and returns how many
// were served and the first error.
func (a *askedServer) storm() (stop func() (served int, err error)) {
	var n atomic.Int64
	var ended atomic.Bool
	errs := make(chan error, runtime.NumCPU())
	for cpu := range runtime.NumCPU() {
		go func() {
			for !ended.Load() {
				got, err := ask(a.s.ns, cpu, a.addr, 20)
				n.Add(int64(len(got)))
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	return func() (int, error) {
		ended.Store(true)
		var first error
		for range runtime.NumCPU() {
			if err := <-errs; err != nil && first == nil {
				first = err
			}
		}
		return int(n.Load()), first
	}
}

// clones waits until a port has so many listeners.
func (a *askedServer) clones(want int) {
	a.s.t.Helper()
	var n int
	defer func() {
		if n != want {
			a.s.t.Logf("%d listeners, want %d", n, want)
		}
	}()
	WaitFor(a.s.t, 20*time.Second, fmt.Sprintf("%d listeners", want), func() bool {
		for cpu := range runtime.NumCPU() {
			if _, err := ask(a.s.ns, cpu, a.addr, 8); err != nil {
				a.s.t.Fatal(err)
			}
		}
		n, _ = a.s.listeners(a.addr.Port())
		return n == want
	})
}

// local returns the share of connections that were accepted where they came
// in, by status.
func (a *askedServer) local() float64 {
	a.s.t.Helper()
	for line := range strings.Lines(a.s.read("fast/status")) {
		if !strings.HasPrefix(line, "listener: "+a.addr.String()+" ") {
			continue
		}
		_, rest, _ := strings.Cut(line, "local_share=")
		digits, _, _ := strings.Cut(rest, "%")
		v, err := strconv.ParseFloat(digits, 64)
		if err != nil {
			a.s.t.Fatalf("status: %q", line)
		}
		return v
	}
	a.s.t.Fatal("status does not have the listener")
	return 0
}

// read returns a file of the mount.
func (s *fastSite) read(path string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.Path(strings.Split(path, "/")...))
	mustDo(s.t, err)
	return string(b)
}

// nginxFile writes a configuration whose workers answer with their number.
func nginxFile(t *testing.T, port int) (dir, conf string) {
	t.Helper()
	dir = TempDir(t)
	mustDo(t, os.Chmod(dir, 0o755))
	conf = filepath.Join(dir, "nginx.conf")
	mustDo(t, os.WriteFile(conf, []byte(fmt.Sprintf(`env LD_PRELOAD; env STACKFS_FAST; user www-data; worker_processes %d; pid %s/pid; error_log %[2]s/error.log;
events { worker_connections 512; }
http {
	access_log off; keepalive_timeout 0;
	client_body_temp_path %[2]s/b; proxy_temp_path %[2]s/p; fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
	server { listen 127.0.0.1:%d; location / { return 200 "pid=$pid."; } }
}
`, runtime.NumCPU(), dir, port)), 0o644))
	return dir, conf
}

// workerOf returns who answered.
func workerOf(t *testing.T, text string) int {
	t.Helper()
	_, rest, _ := strings.Cut(text, "pid=")
	digits, _, _ := strings.Cut(rest, ".")
	pid, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatalf("nginx answers %q", text)
	}
	return pid
}

// nginx as it is installed, whose workers give up root: each CPU has its
// worker; a reload, a new binary and the death of workers lose no connection
// that was not accepted.
func TestFastNginx(t *testing.T) {
	Require(t, Program("nginx"))
	s := newFastSite(t, "")
	for by, start := range s.ways() {
		t.Run(by, func(t *testing.T) {
			s.t = t
			port := map[string]int{"preload": 8080, "run": 8081}[by]
			dir, conf := nginxFile(t, port)
			// A daemon: else it takes no new binary.
			binary, err := exec.LookPath("nginx") // it starts the new one by this name
			mustDo(t, err)
			RunCmd(t, start(binary, "-c", conf, "-e", dir+"/error.log"))
			master := func() int {
				b, err := os.ReadFile(dir + "/pid")
				if err != nil {
					return 0
				}
				pid, _ := strconv.Atoi(strings.TrimSpace(string(b))) // it is being written
				return pid
			}
			t.Cleanup(func() {
				if pid := master(); pid > 0 {
					_ = syscall.Kill(pid, syscall.SIGTERM)
				}
				WaitFor(t, 10*time.Second, "nginx to end", func() bool { return !exists(dir + "/pid") })
			})
			a := &askedServer{s, netip.AddrPortFrom(fastV4, uint16(port))}
			a.answers()
			settled := func() {
				t.Helper()
				WaitFor(t, 20*time.Second, "each CPU to have a worker of its own", func() bool {
					seen, alone := map[int]bool{}, true
					for cpu := range runtime.NumCPU() { // as many from each
						texts, err := ask(s.ns, cpu, a.addr, 50)
						if err != nil {
							t.Fatal(err)
						}
						first := workerOf(t, texts[0])
						for _, text := range texts {
							alone = alone && workerOf(t, text) == first
						}
						seen[first] = true
					}
					if !alone {
						return false
					}
					return len(seen) == runtime.NumCPU()
				})
			}
			settled()
			stop := a.storm()
			for range 3 {
				mustDo(t, syscall.Kill(master(), syscall.SIGHUP))
				time.Sleep(ScaleTime(300 * time.Millisecond))
			}
			if n, err := stop(); err != nil || n == 0 {
				t.Errorf("reloads: %d served, %v", n, err)
			}
			settled()

			// A new binary takes over, and the old one goes.
			old := master()
			stop = a.storm()
			mustDo(t, syscall.Kill(old, syscall.SIGUSR2))
			WaitFor(t, 10*time.Second, "the new nginx", func() bool { return exists(dir+"/pid.oldbin") && master() > 0 && master() != old })
			time.Sleep(ScaleTime(300 * time.Millisecond))
			mustDo(t, syscall.Kill(old, syscall.SIGQUIT))
			WaitFor(t, 10*time.Second, "the old nginx to end", func() bool { return !exists(dir + "/pid.oldbin") })
			if n, err := stop(); err != nil || n == 0 {
				t.Errorf("new binary: %d served, %v", n, err)
			}
			settled()

			// Workers die; the master makes others.
			for range 3 {
				texts, err := ask(s.ns, 0, a.addr, 1)
				mustDo(t, err)
				mustDo(t, syscall.Kill(workerOf(t, texts[0]), syscall.SIGKILL))
				settled()
			}
		})
	}
}

// Servers with other ways to have workers: each worker has its clone, and
// nearly all that is accepted is local.
func TestFastServers(t *testing.T) {
	Require(t, Program("haproxy"), Program("lighttpd"), Program("redis-server"), Program("/usr/bin/python3"))
	s := newFastSite(t, "")
	n := runtime.NumCPU()
	for _, c := range []struct {
		name      string
		port      uint16
		argv      func(dir string) []string
		listeners int
	}{
		{"haproxy", 8090, func(dir string) []string {
			conf := filepath.Join(dir, "haproxy.cfg")
			mustDo(t, os.WriteFile(conf, []byte(fmt.Sprintf("global\n nbthread %d\ndefaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"+
				"frontend f\n bind 127.0.0.1:8090\n http-request return status 200 content-type text/plain string hello\n", n)), 0o644))
			return []string{"haproxy", "-q", "-db", "-f", conf}
		}, n + 1},
		{"lighttpd", 8091, func(dir string) []string {
			conf := filepath.Join(dir, "lighttpd.conf")
			mustDo(t, os.WriteFile(filepath.Join(dir, "index.html"), []byte("hello"), 0o644))
			mustDo(t, os.WriteFile(conf, []byte(fmt.Sprintf("server.document-root = \"%s\"\nserver.bind = \"127.0.0.1\"\nserver.port = 8091\nserver.max-worker = %d\nindex-file.names = (\"index.html\")\n", dir, n)), 0o644))
			return []string{"lighttpd", "-D", "-f", conf}
		}, n + 1},
		// One process: left alone.
		{"python", 8092, func(dir string) []string {
			return []string{"/usr/bin/python3", "-m", "http.server", "8092", "--bind", "127.0.0.1", "--directory", dir}
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			dir := TempDir(t)
			mustDo(t, os.Chmod(dir, 0o755))
			a := s.startAsked(c.port, s.run(c.argv(dir)...))
			a.clones(c.listeners)
			if c.listeners == 1 {
				return
			}
			stop := a.storm()
			time.Sleep(ScaleTime(500 * time.Millisecond))
			if n, err := stop(); err != nil || n < 100 {
				t.Fatalf("%d served, %v", n, err)
			}
			if v := a.local(); v < 95 {
				t.Errorf("%.1f %% accepted where they came in, want 95 at least", v)
			}
		})
	}
}

// A static server in Go, which asks for MPTCP first, and redis, which is one
// process: they run as elsewhere.
func TestFastOthers(t *testing.T) {
	Require(t, Program("redis-server"), Program("redis-cli"))
	s := newFastSite(t, "")
	gonet := GoBuild(t, "testdata/gonet")
	startServer(t, s.run(gonet, "serve", ":8093", "hello"))
	if texts, err := ask(s.ns, 0, netip.AddrPortFrom(fastV4, 8093), 5); err != nil || !strings.Contains(texts[4], "hello") {
		t.Errorf("Go: %q, %v", texts, err)
	}
	startBackground(t, s.run("redis-server", "--port", "8094", "--save", "", "--dir", TempDir(t)))
	WaitFor(t, 10*time.Second, "redis", func() bool {
		out, _, code := Output(t, s.ns.Command(10*time.Second, "redis-cli", "-p", "8094", "ping"))
		return code == 0 && strings.Contains(out, "PONG")
	})
}

// While all load comes from one CPU, steering lets go, and it comes back by
// itself; status says why. The pinning that the user made stays.
func TestFastSkew(t *testing.T) {
	s := newFastSite(t, "")
	f := s.serve(s.preloaded, "epoll", runtime.NumCPU(), 1, netip.AddrPortFrom(fastV4, 7900))
	s.settle(f)
	steering := func() string {
		_, rest, _ := strings.Cut(s.read("fast/status"), "steering=")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	load := func(cpus int, until func() bool) bool {
		var ended atomic.Bool
		var wg sync.WaitGroup
		for i := range 4 * runtime.NumCPU() {
			wg.Go(func() {
				for !ended.Load() {
					if _, err := ask(s.ns, i%cpus, f.addr, 50); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		end := time.Now().Add(ScaleTime(20 * time.Second))
		for !until() && time.Now().Before(end) {
			time.Sleep(20 * time.Millisecond)
		}
		ended.Store(true)
		wg.Wait()
		return until()
	}
	if !load(1, func() bool { return strings.HasPrefix(steering(), "off (most connections") }) {
		t.Fatalf("all from one CPU: steering is %q", steering())
	}
	workers := map[int]bool{}
	for _, r := range s.replies(f, 0, 100) {
		workers[r.pid] = true
	}
	if len(workers) < 2 {
		t.Error("still one worker serves all")
	}
	if !load(runtime.NumCPU(), func() bool { return strings.HasPrefix(steering(), "on") }) {
		t.Fatalf("from all CPUs: steering is %q", steering())
	}
	s.settle(f)
}

// Workers that stop to wait for their listener for a while, as nginx does with
// accept_mutex, lose no connection; nor do threads that end.
func TestFastRestingWorkers(t *testing.T) {
	Require(t, Program("nginx"), Program("/usr/bin/python3"))
	s := newFastSite(t, "")
	t.Run("accept_mutex", func(t *testing.T) {
		s.t = t
		dir, conf := nginxFile(t, 8060)
		text, err := os.ReadFile(conf)
		mustDo(t, err)
		mustDo(t, os.WriteFile(conf, []byte("daemon off; "+strings.Replace(string(text), "events {", "events { accept_mutex on;", 1)), 0o644))
		a := s.startAsked(8060, s.preloaded("nginx", "-c", conf, "-e", dir+"/error.log"))
		stop := a.storm()
		time.Sleep(ScaleTime(2 * time.Second))
		if n, err := stop(); err != nil || n < 100 {
			t.Errorf("%d served, %v", n, err)
		}
	})
	t.Run("threads", func(t *testing.T) {
		s.t = t
		const python = `
import os, socket, sys, threading
s = socket.create_server(("127.0.0.1", 8061))
def serve(n):
    while n:
        c, _ = s.accept(); c.recv(100); c.sendall(b"x"); c.close(); n -= 1
threading.Thread(target=serve, args=(40,)).start()
threading.Thread(target=serve, args=(-1,), daemon=True).start()
print("ready", flush=True)
sys.stdin.read(); os._exit(0)
`
		cmd := s.preloaded("/usr/bin/python3", "-c", python)
		in, err := cmd.StdinPipe()
		mustDo(t, err)
		startServer(t, cmd)
		addr := netip.AddrPortFrom(fastV4, 8061)
		for range 10 {
			for cpu := range runtime.NumCPU() {
				if _, err := ask(s.ns, cpu, addr, 20); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n, _ := s.listeners(8061); n > 2 {
			t.Errorf("%d listeners: that of the thread that ended is still there", n)
		}
		mustDo(t, in.Close())
	})
}
