package fstests

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A fastSite is a mount whose daemon is in a namespace of the test's, and so
// is its stack fast.
type fastSite struct {
	*M
	t      *testing.T
	ns     *NS
	server string // testdata/fast
}

// libfsocket is the library that is preloaded.
func libfsocket(t testing.TB) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "build", "libfsocket.so")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("make build makes it: %v", err)
	}
	return path
}

// newFastSite mounts; toml is added to the configuration.
func newFastSite(t *testing.T, toml string, allowLog ...string) *fastSite {
	t.Helper()
	Require(t, Root, FUSE, NetAdmin, Compiler, Kernel("5.14", "SO_NETNS_COOKIE"), Kernel("5.6", "pidfd_getfd"))
	if runtime.NumCPU() < 2 {
		Require(t, func(testing.TB) error { return errors.New("two CPUs") })
	}
	s := &fastSite{t: t, ns: NetNS(t, "192.0.2.1/24", "2001:db8::1/64"), server: cProgram(t, "fast", "")}
	s.M = Mount(t, Config{NetNS: s.ns, TOML: toml, AllowLog: allowLog})
	return s
}

// preloaded prepares a program with libfsocket in the namespace.
func (s *fastSite) preloaded(argv ...string) *exec.Cmd {
	s.t.Helper()
	cmd := s.ns.Command(exchangeTime, "env", append([]string{"LD_PRELOAD=" + libfsocket(s.t), "STACKFS_FAST=" + s.Path("fast")}, argv...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// run prepares a program under stackfs run.
func (s *fastSite) run(argv ...string) *exec.Cmd {
	s.t.Helper()
	cmd := s.ns.Command(exchangeTime, s.bin, append([]string{"run", s.Path("fast"), "--"}, argv...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// ways are how a program comes to be on the fast stack.
func (s *fastSite) ways() map[string]func(argv ...string) *exec.Cmd {
	return map[string]func(argv ...string) *exec.Cmd{"preload": s.preloaded, "run": s.run}
}

// A fastServer is testdata/fast at work.
type fastServer struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	addr netip.AddrPort
}

// serve starts testdata/fast by a way and waits until it is ready.
func (s *fastSite) serve(by func(argv ...string) *exec.Cmd, way string, workers, threads int, addr netip.AddrPort, opts ...string) *fastServer {
	s.t.Helper()
	argv := []string{s.server, way, strconv.Itoa(workers), strconv.Itoa(threads), addr.Addr().String(), strconv.Itoa(int(addr.Port()))}
	cmd := by(append(argv, opts...)...)
	in, err := cmd.StdinPipe()
	mustDo(s.t, err)
	startServer(s.t, cmd)
	return &fastServer{s.t, cmd, in, addr}
}

// addWorker makes one worker more.
func (f *fastServer) addWorker() {
	f.t.Helper()
	_, err := f.in.Write([]byte("w"))
	mustDo(f.t, err)
}

// A reply is what testdata/fast answers.
type reply struct {
	pid, tid     int
	cpu, arrived int // where the thread ran, and SO_INCOMING_CPU
}

// askTime is how long a connection may take as a whole.
const askTime = 10 * time.Second

// ask makes n connections from a CPU in the namespace, one after another, and
// returns what came on each.
func ask(ns *NS, cpu int, addr netip.AddrPort, n int) ([]string, error) {
	var got []string
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		done <- func() error {
			if err := enterPinned(ns, cpu); err != nil {
				return err
			}
			for range n {
				text, err := askOnce(addr)
				if err != nil {
					return fmt.Errorf("connection %d from CPU %d: %w", len(got), cpu, err)
				}
				got = append(got, text)
			}
			return nil
		}()
	}()
	return got, <-done
}

func enterPinned(ns *NS, cpu int) error {
	f, err := os.Open(ns.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	if cpu < 0 {
		return nil
	}
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

// request is for servers that speak HTTP; testdata/fast ignores it.
const fastRequest = "GET / HTTP/1.0\r\n\r\n"

// askOnce connects and reads to the end, on this thread.
func askOnce(addr netip.AddrPort) (string, error) {
	fd, err := connectTo(addr)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return converseOnce(fd)
}

// idle opens n connections that send nothing, so that the server waits. The
// caller closes them.
func (s *fastSite) idle(f *fastServer, n int) (open []int) {
	s.t.Helper()
	inNamespace(s.t, s.ns, func() error {
		for range n {
			fd, err := connectTo(f.addr)
			if err != nil {
				return err
			}
			open = append(open, fd)
		}
		return nil
	})
	return open
}

// connectTo connects on this thread.
func connectTo(addr netip.AddrPort) (fd int, err error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()})
	if addr.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(ScaleTime(askTime).Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &limit)
		}
	}
	if err == nil {
		err = connectRestarted(fd, sa)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// converseOnce sends a request and reads to the end.
func converseOnce(fd int) (string, error) {
	// With the connection, so that a server that reads finds it.
	if _, err := unix.Write(fd, []byte(fastRequest)); err != nil {
		return "", fmt.Errorf("write: %w", err)
	}
	var text []byte
	for b := make([]byte, 4096); ; {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return string(text), fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return string(text), nil
		}
		text = append(text, b[:n]...)
	}
}

// connectRestarted is connect(2) that a signal does not end: the runtime sends
// itself some.
func connectRestarted(fd int, sa unix.Sockaddr) error {
	err := unix.Connect(fd, sa)
	for err == unix.EINTR || err == unix.EALREADY {
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(ScaleTime(askTime).Milliseconds()))
		if err == nil {
			err = unix.Connect(fd, sa)
		}
		if err == unix.EISCONN {
			return nil
		}
	}
	return err
}

// replies is ask for testdata/fast.
func (s *fastSite) replies(f *fastServer, cpu, n int) []reply {
	s.t.Helper()
	texts, err := ask(s.ns, cpu, f.addr, n)
	if err != nil {
		s.t.Fatal(err)
	}
	var list []reply
	for _, text := range texts {
		var r reply
		if _, err := fmt.Sscan(text, &r.pid, &r.tid, &r.cpu, &r.arrived); err != nil {
			s.t.Fatalf("the server says %q: %v", text, err)
		}
		list = append(list, r)
	}
	return list
}

// everyCPU asks from each CPU at the same time, n times, and returns the
// replies by CPU.
func (s *fastSite) fromEveryCPU(f *fastServer, n int) [][]reply {
	s.t.Helper()
	all := make([][]reply, runtime.NumCPU())
	var wg sync.WaitGroup
	for cpu := range all {
		wg.Go(func() { all[cpu] = s.replies(f, cpu, n) })
	}
	wg.Wait()
	return all
}

// settle makes connections from every CPU until each is served by a thread
// that is on it: the workers then have their listeners.
func (s *fastSite) settle(f *fastServer) {
	s.t.Helper()
	WaitFor(s.t, 20*time.Second, "each CPU's connections to be served on it", func() bool {
		for cpu, list := range s.fromEveryCPU(f, 8) {
			for _, r := range list {
				if r.cpu != cpu || r.arrived != cpu {
					return false
				}
			}
		}
		return true
	})
}

// listeners returns the sockets that listen on a port, by the processes that
// hold them: pid -> number.
func (s *fastSite) listeners(port uint16) (n int, by map[int]int) {
	s.t.Helper()
	by = map[int]int{}
	out := RunCmd(s.t, s.ns.Command(10*time.Second, "ss", "-Hltnp", "sport", "=", fmt.Sprintf(":%d", port)))
	for line := range strings.Lines(out) {
		n++
		for _, part := range strings.Split(line, "pid=")[1:] {
			digits, _, _ := strings.Cut(part, ",")
			if pid, err := strconv.Atoi(digits); err == nil {
				by[pid]++
			}
		}
	}
	return n, by
}

var fastV4 = netip.MustParseAddr("127.0.0.1")
