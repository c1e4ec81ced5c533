package fstests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/netns"
	"github.com/stackfs/stackfs/stacknode"
)

func newSleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	mustDo(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// discovering returns a registry whose named namespaces come and go, and
// that wants the stacks in config beside those.
func discovering(t *testing.T, config ...stacknode.Spec) *stacknode.Registry {
	t.Helper()
	env := netnsEnv(t)
	reg := stacknode.NewRegistry(func(s stacknode.Spec) (stacknode.Backend, error) { return netns.New(s, env) })
	for _, s := range config {
		if _, err := reg.Add(s, stacknode.OriginConfig); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Fatal(err)
		}
	}
	d, err := netns.Discover(netns.Discovery{
		Registry: reg,
		Log:      env.Log,
		Wanted: func(name string) (w []netns.Wanted) {
			for _, s := range config {
				if s.Netns.Name == name {
					w = append(w, netns.Wanted{Spec: s, Origin: stacknode.OriginConfig})
				}
			}
			return append(w, netns.Wanted{Spec: netnsSpec(name, stacknode.NetnsSpec{Name: name}), Origin: stacknode.OriginDiscover})
		},
	})
	mustDo(t, err)
	t.Cleanup(func() {
		mustDo(t, d.Close())
		for _, s := range reg.List() {
			mustDo(t, reg.Remove(s.Name(), true))
		}
	})
	return reg
}

func hasStack(reg *stacknode.Registry, name string) bool {
	_, err := reg.Get(name)
	return err == nil
}

// newChannel opens a channel to a stack, which keeps a thread of the daemon
// in its namespace, and returns the caller's end.
func newChannel(t *testing.T, s *stacknode.Stack) int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	mustDo(t, err)
	t.Cleanup(func() { unix.Close(pair[0]) })
	mustDo(t, unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	mustDo(t, unix.SetsockoptInt(pair[1], unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	conn := os.NewFile(uintptr(pair[1]), "channel")
	mustDo(t, s.Backend().(stacknode.ChannelServer).ServeChannel(conn, rootCaller(), func() {}))
	return pair[0]
}

func TestNetnsNamedNamespacesComeAndGo(t *testing.T) {
	isolated(t, func(t *testing.T) {
		// Not even the directory is there.
		reg := discovering(t)
		for round := range 3 {
			mustCommand(t, "ip", "netns", "add", "lab")
			eventually(t, 2*time.Second, "lab appears", func() bool { return hasStack(reg, "lab") })
			s, _ := reg.Get("lab")
			channel := newChannel(t, s)
			f, err := s.Socket(t.Context(), rootCaller(), unix.AF_INET, unix.SOCK_STREAM, 0)
			mustDo(t, err)
			f.Close()
			mustCommand(t, "ip", "link", "add", "h0", "type", "veth", "peer", "name", "eth0", "netns", "lab")
			mustCommand(t, "ip", "netns", "del", "lab")
			// Its veth can only go when nobody holds the namespace.
			eventually(t, time.Second, fmt.Sprintf("round %d: lab and its veth vanish", round), func() bool {
				_, err := tryCommand("ip", "link", "show", "h0")
				return err != nil && !hasStack(reg, "lab")
			})
			if n, err := unix.Read(channel, make([]byte, 64)); n != 0 || err != nil {
				t.Errorf("channel: read %d, %v, want end of file", n, err)
			}
		}
	})
}

func TestNetnsDirectoryMayComeAndGo(t *testing.T) {
	isolated(t, func(t *testing.T) {
		reg := discovering(t)
		for range 2 {
			mustCommand(t, "ip", "netns", "add", "lab")
			eventually(t, 2*time.Second, "lab appears", func() bool { return hasStack(reg, "lab") })
			mustCommand(t, "ip", "netns", "del", "lab")
			eventually(t, time.Second, "lab vanishes", func() bool { return !hasStack(reg, "lab") })
			mustDo(t, unix.Unmount("/run/netns", 0))
			mustDo(t, os.Remove("/run/netns"))
		}
	})
}

func TestNetnsThatWereThereAtTheStart(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "netns", "add", "lab")
		mustCommand(t, "ip", "netns", "add", "tun") // has a meaning of its own
		mustCommand(t, "ip", "netns", "attach", "host", fmt.Sprint(os.Getpid()))
		mustDo(t, os.WriteFile("/run/netns/stray", nil, 0o644))
		reg := discovering(t)
		var names []string
		for _, s := range reg.List() {
			names = append(names, s.Name())
		}
		if got := strings.Join(names, " "); got != "lab" {
			t.Errorf("got stacks %q, want lab", got)
		}

		// The stray becomes a namespace late.
		time.Sleep(50 * time.Millisecond)
		mustCommand(t, "mount", "--bind", "/run/netns/lab", "/run/netns/stray")
		eventually(t, 500*time.Millisecond, "stray appears", func() bool { return hasStack(reg, "stray") })
	})
}

func TestNetnsConfiguredStackComesBack(t *testing.T) {
	isolated(t, func(t *testing.T) {
		named := netnsSpec("vpn", stacknode.NetnsSpec{Name: "lab", Addresses: prefixes("192.0.2.1/24")})
		taken := netnsSpec("other", stacknode.NetnsSpec{})
		reg := discovering(t, named, taken)
		if hasStack(reg, "vpn") {
			t.Fatal("vpn is there before its namespace")
		}
		for range 2 {
			mustCommand(t, "ip", "netns", "add", "lab")
			eventually(t, 2*time.Second, "vpn and lab appear", func() bool { return hasStack(reg, "vpn") && hasStack(reg, "lab") })
			s, _ := reg.Get("vpn")
			if s.Origin() != stacknode.OriginConfig {
				t.Errorf("origin %s, want config", s.Origin())
			}
			mustCommand(t, "ip", "netns", "exec", "lab", "ping", "-c1", "-W2", "192.0.2.1")
			mustCommand(t, "ip", "netns", "del", "lab")
			eventually(t, time.Second, "vpn and lab vanish", func() bool { return !hasStack(reg, "vpn") && !hasStack(reg, "lab") })
			if _, err := s.Socket(t.Context(), rootCaller(), unix.AF_INET, unix.SOCK_STREAM, 0); !errors.Is(err, unix.ENODEV) {
				t.Errorf("Socket: got %v, want ENODEV", err)
			}
		}

		// A name that the configuration has taken stays that of the stack.
		mustCommand(t, "ip", "netns", "add", "other")
		mustCommand(t, "ip", "netns", "add", "last")
		eventually(t, 2*time.Second, "last appears", func() bool { return hasStack(reg, "last") })
		s, err := reg.Get("other")
		mustDo(t, err)
		if s.Origin() != stacknode.OriginConfig {
			t.Errorf("other: origin %s, want config", s.Origin())
		}
		mustCommand(t, "ip", "netns", "del", "other")
		mustCommand(t, "ip", "netns", "del", "last")
		eventually(t, time.Second, "last vanishes", func() bool { return !hasStack(reg, "last") })
		if !hasStack(reg, "other") {
			t.Error("other went with a namespace that it is not in")
		}
	})
}

func TestNetnsReplacedUnderTheSameName(t *testing.T) {
	isolated(t, func(t *testing.T) {
		reg := discovering(t)
		for range 20 {
			mustCommand(t, "sh", "-c", "ip netns add lab; ip netns del lab; ip netns add lab")
			var st unix.Stat_t
			mustDo(t, unix.Stat("/run/netns/lab", &st))
			eventually(t, 2*time.Second, "the stack is in the new lab", func() bool {
				s, err := reg.Get("lab")
				if err != nil {
					return false
				}
				id, _, _ := s.NetNS()
				return id.Ino == st.Ino
			})
			mustCommand(t, "ip", "netns", "del", "lab")
		}
		eventually(t, time.Second, "lab vanishes", func() bool { return !hasStack(reg, "lab") })
	})
}

func TestNetnsByPathIsDroppedWithItsMount(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "netns", "add", "lab")
		mustDo(t, os.WriteFile("/run/box", nil, 0o644))
		mustCommand(t, "mount", "--bind", "/run/netns/lab", "/run/box")
		reg := discovering(t, netnsSpec("box", stacknode.NetnsSpec{Path: "/run/box"}),
			netnsSpec("var", stacknode.NetnsSpec{Path: "/var/run/netns/lab"}))
		mustCommand(t, "umount", "/run/box")
		eventually(t, 3*time.Second, "box vanishes", func() bool { return !hasStack(reg, "box") })
		if !hasStack(reg, "lab") {
			t.Error("lab went with another mount of its namespace")
		}
	})
}
