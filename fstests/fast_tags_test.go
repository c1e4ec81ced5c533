package fstests

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/msocket"
)

// ends returns how many established connections of a stack have a port at
// their local, and how many at their remote end.
func (s *fastSite) ends(stack string, port int) (local, remote int) {
	s.t.Helper()
	end := fmt.Sprintf(":%d", port)
	for line := range strings.Lines(s.within("cat", stack+"/connections")) {
		f := strings.Fields(line)
		if len(f) < 7 || f[1] != "established" {
			continue
		}
		if strings.HasSuffix(f[5], end) {
			local++
		}
		if strings.HasSuffix(f[6], end) {
			remote++
		}
	}
	return local, remote
}

// client connects to a port of the namespace, and waits. before comes before
// the program.
func (s *fastSite) client(port int, by func(argv ...string) *exec.Cmd, before ...string) {
	s.t.Helper()
	python := fmt.Sprintf(`
import socket, sys
c = socket.create_connection(("127.0.0.1", %d))
try:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    print("MPTCP is there", flush=True)
except OSError as e:
    print("ready", e.errno, flush=True)
sys.stdin.read()
`, port)
	cmd := by(append(before, "/usr/bin/python3", "-c", python)...)
	in, err := cmd.StdinPipe()
	mustDo(s.t, err)
	s.t.Cleanup(func() { in.Close() })
	out, err := cmd.StdoutPipe()
	mustDo(s.t, err)
	mustDo(s.t, cmd.Start())
	s.t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if want := fmt.Sprintf("ready %d\n", unix.EPROTONOSUPPORT); line != want {
		s.t.Fatalf("the client says %q, %v, want %q", line, err, want)
	}
}

// listenAt makes a listener that is on no stack but the kernel's.
func (s *fastSite) listenAt(port int) {
	s.t.Helper()
	inNamespace(s.t, s.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		return unix.Listen(fd, 16)
	})
}

const tagOpened = "[stack.fast]\ntag_opened = true\n"

// With tag_opened, a connection that a program on the fast stack opens is that
// stack's, however it came by its socket.
func TestFastOwnSockets(t *testing.T) {
	Require(t, Program("/usr/bin/python3"))
	s := newFastSite(t, tagOpened)
	s.listenAt(7960)
	nested := func(argv ...string) *exec.Cmd {
		cmd := s.ns.Command(exchangeTime, s.bin, append([]string{"run", s.Path("kernel"), "--", s.bin, "run", s.Path("fast"), "--"}, argv...)...)
		cmd.Stderr = os.Stderr
		return cmd
	}
	want := 0
	check := func(how string) {
		t.Helper()
		want++
		if _, n := s.ends("fast", 7960); n != want {
			t.Errorf("%s: fast has %d connections, want %d", how, n, want)
		}
		if _, n := s.ends("kernel", 7960); n != 0 {
			t.Errorf("%s: kernel has %d of them", how, n)
		}
	}
	s.client(7960, s.run)
	check("run")
	s.client(7960, nested)
	check("run within run")
	inNamespace(t, s.ns, func() error {
		f, err := msocket.Socket(s.Path("fast"), unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { f.Close() })
		return connectRestarted(int(f.Fd()), &unix.SockaddrInet4{Port: 7960, Addr: [4]byte{127, 0, 0, 1}})
	})
	check("msocket")
	if n, _ := s.ends("kernel", 7960); n != want {
		t.Errorf("kernel has %d other ends, want %d", n, want)
	}
}

// Without it, the program makes its socket itself, as fast as it can, and the
// connection is the kernel's.
func TestFastOpenedIsTheKernels(t *testing.T) {
	Require(t, Program("/usr/bin/python3"))
	s := newFastSite(t, "")
	s.listenAt(7965)
	s.client(7965, s.run)
	if _, n := s.ends("fast", 7965); n != 0 {
		t.Errorf("fast has %d connections, want none", n)
	}
	if _, n := s.ends("kernel", 7965); n != 1 {
		t.Errorf("kernel has %d connections, want 1", n)
	}
}

// The daemon that comes after one that was killed tells the connections apart
// as that did, as long as there is a listener with clones.
func TestFastTagsOutliveTheDaemon(t *testing.T) {
	s := newFastSite(t, "")
	f := s.serve(s.preloaded, "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7970))
	s.settle(f)
	open := s.idle(f, 4)
	parted := func() bool {
		fast, client := s.ends("fast", 7970)
		kernel, clients := s.ends("kernel", 7970)
		return fast == 4 && client == 0 && kernel == 0 && clients == 4
	}
	WaitFor(t, 10*time.Second, "the connections", parted)
	s.Kill()
	s.Start()
	WaitFor(t, 10*time.Second, "the connections after a restart", parted)
	for _, fd := range open { // which the workers wait for
		mustDo(t, unix.Close(fd))
	}
	s.settle(f)
}

// cgroupWith makes a cgroup whose sockets pass a program, as those of a service
// of systemd with IPAddressDeny= do.
func cgroupWith(t *testing.T) (procs string) {
	t.Helper()
	var dir string
	Require(t, Root, func(testing.TB) error {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			left, right, _ := strings.Cut(line, " - ")
			if l := strings.Fields(left); strings.HasPrefix(right, "cgroup2 ") && len(l) > 4 && l[3] == "/" {
				dir, err = os.MkdirTemp(l[4], "stackfs-test-")
				return err
			}
		}
		return fmt.Errorf("cgroup2 is mounted nowhere")
	})
	t.Cleanup(func() {
		WaitFor(t, 10*time.Second, "the cgroup to be empty", func() bool { return os.Remove(dir) == nil })
	})
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetIngress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	mustDo(t, err)
	defer prog.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInetIngress, Program: prog})
	mustDo(t, err)
	t.Cleanup(func() { l.Close() })
	return filepath.Join(dir, "cgroup.procs")
}

// A service whose sockets pass programs of its cgroup keeps them: it has no
// sockets of the daemon's, and serves as it would without us.
func TestFastServiceWithPrograms(t *testing.T) {
	Require(t, Program("/usr/bin/python3"))
	procs := cgroupWith(t)
	s := newFastSite(t, tagOpened)
	in := func(by func(argv ...string) *exec.Cmd) func(argv ...string) *exec.Cmd {
		return func(argv ...string) *exec.Cmd {
			return by(append([]string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, procs}, argv...)...)
		}
	}
	f := s.serve(in(s.preloaded), "epoll", 2, 1, netip.AddrPortFrom(fastV4, 7980))
	for _, list := range s.fromEveryCPU(f, 20) {
		if len(list) != 20 {
			t.Errorf("%d replies, want 20", len(list))
		}
	}
	if n, _ := s.listeners(7980); n != 1 {
		t.Errorf("%d listeners, want the one that the service has", n)
	}
	s.listenAt(7990)
	s.client(7990, in(s.run))
	if _, n := s.ends("kernel", 7990); n != 1 {
		t.Errorf("kernel has %d connections, want the one of the socket that the service made itself", n)
	}
}
