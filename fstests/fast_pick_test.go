package fstests

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Connections from each CPU arrive at the worker on it: in every way to wait,
// for processes and for threads, in both families, by both ways to get there.
func TestFastPick(t *testing.T) {
	s := newFastSite(t, "")
	port := uint16(7000)
	n := runtime.NumCPU()
	for by, start := range s.ways() {
		for _, way := range []string{"epoll", "epollet", "exclusive", "multi", "poll", "select", "accept"} {
			for _, shape := range []struct {
				name             string
				workers, threads int
			}{{"processes", n, 1}, {"threads", 0, n}} {
				for _, addr := range []netip.Addr{fastV4, netip.IPv6Loopback(), netip.IPv6Unspecified()} {
					port++
					t.Run(fmt.Sprintf("%s/%s/%s/%v", by, way, shape.name, addr), func(t *testing.T) {
						s.t = t
						f := s.serve(start, way, shape.workers, shape.threads, netip.AddrPortFrom(addr, port))
						if addr.IsUnspecified() { // v4-mapped peers
							f.addr = netip.AddrPortFrom(fastV4, port)
						}
						s.settle(f)
						away, all := 0, 0
						for cpu, list := range s.fromEveryCPU(f, Scale(100)) {
							workers := map[int]bool{}
							for _, r := range list {
								all++
								if r.cpu != cpu || r.arrived != cpu {
									away++
								}
								workers[r.tid] = true
							}
							if len(workers) != 1 {
								t.Errorf("CPU %d is served by %d workers", cpu, len(workers))
							}
						}
						if away*100 > all {
							t.Errorf("%d of %d connections are served elsewhere", away, all)
						}
					})
				}
			}
		}
	}
}

// With the library and without a stack, a program runs as without both.
func TestFastInert(t *testing.T) {
	s := newFastSite(t, "")
	cmd := s.ns.Command(exchangeTime, "env", "LD_PRELOAD="+libfsocket(t), "STACKFS_FAST=/nowhere/fast", s.server, "accept", "2", "1", "127.0.0.1", "7000")
	f := s.serve(func(argv ...string) *exec.Cmd { return cmd }, "accept", 2, 1, netip.AddrPortFrom(fastV4, 7000))
	for _, list := range s.fromEveryCPU(f, 20) {
		if len(list) != 20 {
			t.Errorf("got %d replies, want 20", len(list))
		}
	}
	if n, _ := s.listeners(7000); n != 1 {
		t.Errorf("%d listeners, want 1", n)
	}
}

// A second start on the same port fails as without us.
func TestFastSecondStart(t *testing.T) {
	s := newFastSite(t, "")
	for by, start := range s.ways() {
		t.Run(by, func(t *testing.T) {
			s.t = t
			f := s.serve(start, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7100))
			s.settle(f)
			_, stderr, code := Output(t, func() *exec.Cmd {
				cmd := start(s.server, "epoll", "2", "1", "127.0.0.1", "7100")
				cmd.Stderr = nil
				return cmd
			}())
			if code == 0 || !strings.Contains(stderr, "Address already in use") {
				t.Errorf("got exit code %d, %q", code, stderr)
			}
			s.settle(f)
		})
	}
}

// More workers than CPUs, fewer, and one: each connection is served.
func TestFastWorkers(t *testing.T) {
	s := newFastSite(t, "")
	for i, workers := range []int{0, 1, runtime.NumCPU() + 1, 2 * runtime.NumCPU()} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			s.t = t
			f := s.serve(s.preloaded, "epoll", workers, 1, netip.AddrPortFrom(fastV4, uint16(7200+i)))
			for range 5 {
				s.fromEveryCPU(f, Scale(40))
			}
		})
	}
}

// Workers that gave up their rights, on a port below 1024.
func TestFastDroppedRights(t *testing.T) {
	s := newFastSite(t, "")
	for by, start := range s.ways() {
		t.Run(by, func(t *testing.T) {
			s.t = t
			f := s.serve(start, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 80), "user=65534")
			s.settle(f)
			for cpu, list := range s.fromEveryCPU(f, Scale(100)) {
				for _, r := range list {
					if r.cpu != cpu {
						t.Fatalf("a connection from CPU %d is served on %d", cpu, r.cpu)
					}
				}
			}
		})
	}
}

// A worker that the user bound to a CPU stays there and gets that CPU's
// connections.
func TestFastTaskset(t *testing.T) {
	s := newFastSite(t, "")
	f := s.serve(func(argv ...string) *exec.Cmd {
		return s.preloaded(append([]string{"taskset", "-c", "1"}, argv...)...)
	}, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7300))
	for range 10 {
		for _, list := range s.fromEveryCPU(f, 20) {
			for _, r := range list {
				if r.cpu != 1 {
					t.Fatalf("a worker ran on CPU %d, want 1 alone", r.cpu)
				}
			}
		}
	}
}

// A worker that dies leaves no listener, and its CPU is served by the others;
// one that comes gets the CPU; with the daemon at work, stopped and killed.
func TestFastDyingWorkers(t *testing.T) {
	for name, harm := range map[string]func(s *fastSite){
		"daemon": func(*fastSite) {}, "stopped": func(s *fastSite) { s.Pause(); s.t.Cleanup(s.Resume) }, "killed": func(s *fastSite) { s.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newFastSite(t, "")
			f := s.serve(s.preloaded, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7400))
			s.settle(f)
			harm(s)
			victims := map[int]bool{}
			for _, list := range s.fromEveryCPU(f, 4) {
				victims[list[0].pid] = true
			}
			for pid := range victims {
				mustDo(t, syscall.Kill(pid, syscall.SIGKILL))
				WaitFor(t, 5*time.Second, "the listener of the dead to go", func() bool {
					_, by := s.listeners(7400)
					return by[pid] == 0
				})
				for range 3 {
					s.fromEveryCPU(f, 20)
				}
				f.addWorker()
				s.settle(f)
			}
		})
	}
}

// Connections that wait in the queue of a worker that is killed are served by
// another: none is lost.
func TestFastQueueMoves(t *testing.T) {
	s := newFastSite(t, "")
	f := s.serve(s.preloaded, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7500))
	s.settle(f)
	victim := s.replies(f, 0, 1)[0].pid
	mustDo(t, syscall.Kill(victim, syscall.SIGSTOP))
	const waiting = 200
	type result struct {
		n   int
		err error
	}
	results := make(chan result, waiting)
	for range waiting {
		go func() {
			texts, err := ask(s.ns, 0, f.addr, 1)
			results <- result{len(texts), err}
		}()
	}
	WaitFor(t, 10*time.Second, "connections to wait", func() bool { return s.queued(7500) > 0 })
	mustDo(t, syscall.Kill(victim, syscall.SIGKILL))
	lost := 0
	for range waiting {
		if r := <-results; r.err != nil || r.n != 1 {
			lost++
			t.Log(r.err)
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d connections were lost", lost, waiting)
	}
}

// queued returns how many connections wait for accept(2) on a port.
func (s *fastSite) queued(port uint16) (n int) {
	s.t.Helper()
	out := RunCmd(s.t, s.ns.Command(10*time.Second, "ss", "-Hltn", "sport", "=", fmt.Sprintf(":%d", port)))
	for line := range strings.Lines(out) {
		var k int
		if f := strings.Fields(line); len(f) > 1 {
			if _, err := fmt.Sscan(f[1], &k); err == nil {
				n += k
			}
		}
	}
	return n
}

// A worker that is stuck does not keep its CPU's connections: the daemon
// takes its listener away, and gives it another when it goes on.
func TestFastStuckWorker(t *testing.T) {
	s := newFastSite(t, "", "stuck", "accepts nothing")
	f := s.serve(s.preloaded, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7600))
	s.settle(f)
	stuck := s.replies(f, 0, 1)[0].pid
	mustDo(t, syscall.Kill(stuck, syscall.SIGSTOP))
	t.Cleanup(func() { _ = syscall.Kill(stuck, syscall.SIGCONT) })
	for range 3 {
		for _, r := range s.replies(f, 0, 10) {
			if r.pid == stuck {
				t.Fatal("the stopped worker answers")
			}
		}
	}
	mustDo(t, syscall.Kill(stuck, syscall.SIGCONT))
	s.settle(f)
}

// All options of a listener are its clones' too.
func TestFastOptions(t *testing.T) {
	s := newFastSite(t, "")
	python := `
import os, socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 70000)
s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\5\0\0\0")
s.bind(("127.0.0.1", 7700)); s.listen(100)
for worker in range(2):
    if os.fork() == 0:
        import select
        ep = select.epoll(); ep.register(s, select.EPOLLIN)
        while True:
            ep.poll()
            c, _ = s.accept()
            c.setblocking(True); c.recv(100)
            g = c.getsockopt
            what = (g(1, socket.SO_RCVBUF), g(1, socket.SO_KEEPALIVE), g(6, socket.TCP_KEEPIDLE), g(6, socket.TCP_NODELAY),
                g(6, socket.TCP_USER_TIMEOUT), g(0, socket.IP_TOS), g(1, socket.SO_LINGER, 8))
            c.sendall(repr(what).encode()); c.close()
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, 9)
`
	cmd := s.preloaded("/usr/bin/python3", "-c", python)
	in, err := cmd.StdinPipe()
	mustDo(t, err)
	defer in.Close()
	startServer(t, cmd)
	want := `(140000, 1, 77, 1, 5000, 16, b'\x01\x00\x00\x00\x05\x00\x00\x00')`
	addr := netip.AddrPortFrom(fastV4, 7700)
	for cpu := range 2 {
		texts, err := ask(s.ns, cpu, addr, 20)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if text != want {
				t.Fatalf("got %s, want %s", text, want)
			}
		}
	}
	if n, _ := s.listeners(7700); n < 3 {
		t.Errorf("%d listeners: there are no clones, the test shows nothing", n)
	}
}

// A storm of connections leaves nothing behind: no descriptor in workers or
// daemon, no listener.
func TestFastLeavesNothing(t *testing.T) {
	s := newFastSite(t, "")
	f := s.serve(s.preloaded, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7800))
	s.settle(f)
	_ = s.Status("fast") // which waits for the BPF programs of the daemon
	pids := map[int]int{s.PID(): 0}
	for _, list := range s.fromEveryCPU(f, 4) {
		pids[list[0].pid] = 0
	}
	count := func(pid int) int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		mustDo(t, err)
		return len(list)
	}
	for pid := range pids {
		pids[pid] = count(pid)
	}
	for range 10 {
		s.fromEveryCPU(f, Scale(500))
	}
	for pid, before := range pids {
		WaitFor(t, 5*time.Second, "as many descriptors as before", func() bool { return count(pid) <= before })
	}
	mustDo(t, f.in.Close())
	_ = f.cmd.Wait()
	WaitFor(t, 10*time.Second, "the listeners to go", func() bool { n, _ := s.listeners(7800); return n == 0 })
}

// What a server on the fast stack accepts is a connection of that stack and
// not of the kernel's, and can be saved there; the other end is the kernel's.
func TestFastConnections(t *testing.T) {
	s := newFastSite(t, "")
	f := s.serve(s.preloaded, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7950))
	s.settle(f)
	open := s.idle(f, 4)
	t.Cleanup(func() {
		for _, fd := range open {
			mustDo(t, syscall.Close(fd))
		}
	})
	established := func(stack string) (list []string) {
		for _, line := range strings.Split(s.within("cat", stack+"/connections"), "\n") {
			if fields := strings.Fields(line); len(fields) > 6 && fields[1] == "established" {
				list = append(list, line)
			}
		}
		return list
	}
	WaitFor(t, 10*time.Second, "the connections", func() bool { return len(established("fast")) == len(open) })
	for _, line := range established("fast") {
		if fields := strings.Fields(line); !strings.HasSuffix(fields[5], ":7950") {
			t.Errorf("fast has %q", line)
		}
		if image := s.within("cat", "fast/conns/"+strings.Fields(line)[0]+"/checkpoint"); len(image) < 100 {
			t.Errorf("an image of %d bytes", len(image))
		}
	}
	for _, line := range established("kernel") {
		if fields := strings.Fields(line); strings.HasSuffix(fields[5], ":7950") {
			t.Errorf("kernel has %q", line)
		}
	}
	if n := len(established("kernel")); n != len(open) {
		t.Errorf("kernel has %d connections, want the %d clients", n, len(open))
	}
	if n := len(strings.Fields(s.within("ls", "fast/listeners"))); n != 3 {
		t.Errorf("fast has %d listeners, want 3", n)
	}
}

// within runs a program on a file of the mount, in the daemon's namespace:
// others may not look at its connections.
func (s *fastSite) within(program, path string) string {
	s.t.Helper()
	return RunCmd(s.t, s.ns.Command(10*time.Second, program, s.Path(strings.Split(path, "/")...)))
}

// The port of a connection tells the CPU that opened it, if that is asked for.
func TestFastDeliver(t *testing.T) {
	Require(t, Program("/usr/bin/python3"), Kernel("6.3", "IP_LOCAL_PORT_RANGE"))
	s := newFastSite(t, "")
	const python = `
import os, socket
s = socket.create_server(("127.0.0.1", 0))
mask = 1
while mask < os.cpu_count(): mask *= 2
for cpu in range(os.cpu_count()):
    os.sched_setaffinity(0, {cpu})
    for i in range(50):
        c = socket.create_connection(s.getsockname())
        a, peer = s.accept()
        assert peer[1] % mask == cpu, (peer, cpu)
        a.close(); c.close()
c = socket.socket(); c.bind(("127.0.0.1", 50001)); c.connect(s.getsockname())
assert c.getsockname()[1] == 50001, c.getsockname()
print("good")
`
	cmd := s.preloaded("env", "FSOCKET_RFD=1", "/usr/bin/python3", "-c", python)
	if out := RunCmd(t, cmd); out != "good\n" {
		t.Errorf("got %q", out)
	}
}

// Workers that are killed in a storm of connections take with them what they
// had accepted, and nothing else: one connection each, since testdata/fast
// serves one at a time.
func TestFastKilledInAStorm(t *testing.T) {
	s := newFastSite(t, "")
	f := s.serve(s.preloaded, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7550))
	s.settle(f)
	var stop atomic.Bool
	var served, lost atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 * runtime.NumCPU() { // so many that some wait in the queues
		cpu := i % runtime.NumCPU()
		wg.Go(func() {
			for !stop.Load() {
				texts, err := ask(s.ns, cpu, f.addr, 50)
				served.Add(int64(len(texts)))
				for _, text := range texts {
					if text == "" {
						lost.Add(1) // closed by the kernel, for a process that has ended
					}
				}
				if errors.Is(err, unix.ECONNRESET) {
					lost.Add(1)
				} else if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	kills := 2 * Scale(15)
	for range kills {
		var pid int
		WaitFor(t, 10*time.Second, "a worker to have a listener", func() bool {
			_, by := s.listeners(7550)
			delete(by, f.cmd.Process.Pid)
			for pid = range by { // any
			}
			return pid != 0
		})
		mustDo(t, syscall.Kill(pid, syscall.SIGKILL))
		f.addWorker()
		time.Sleep(20 * time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d served, %d lost in %d deaths", served.Load(), lost.Load(), kills)
	if lost.Load() > int64(kills) {
		t.Errorf("%d connections were lost in %d deaths", lost.Load(), kills)
	}
	if served.Load() < 100 {
		t.Error("that was no storm")
	}
	s.settle(f)
}
