package fstests

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/netns"
	"github.com/stackfs/stackfs/stacknode"
)

// rootCaller is a caller with all rights.
func rootCaller() *stacknode.Caller {
	all := func(*os.File) (stacknode.CapSet, error) { return ^stacknode.CapSet(0), nil }
	return &stacknode.Caller{
		PID: os.Getpid(), TID: os.Getpid(),
		Look: func() (*stacknode.Details, error) {
			return &stacknode.Details{SameUserNS: true, CapsOver: all}, nil
		},
	}
}

func mustNetnsSocket(t *testing.T, b stacknode.Backend, domain, typ, proto int) *os.File {
	t.Helper()
	f, err := b.Socket(t.Context(), rootCaller(), domain, typ, proto)
	if err != nil {
		t.Fatalf("Socket(%d, %d, %d): %v", domain, typ, proto, err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// cookieOf returns the SO_NETNS_COOKIE of a socket.
func cookieOf(t *testing.T, f *os.File) uint64 {
	t.Helper()
	c, err := unix.GetsockoptUint64(int(f.Fd()), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	mustDo(t, err)
	return c
}

func TestNetnsSourcesAreTheSameNamespace(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "netns", "add", "lab")
		sleep := exec.Command("ip", "netns", "exec", "lab", "sleep", "60")
		mustDo(t, sleep.Start())
		t.Cleanup(func() { sleep.Process.Kill(); sleep.Wait() })
		eventually(t, 5*time.Second, "sleep in lab", func() bool {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", sleep.Process.Pid))
			return string(comm) == "sleep\n"
		})
		env := netnsEnv(t)
		var ids []stacknode.NSID
		for name, opts := range map[string]stacknode.NetnsSpec{
			"byname": {Name: "lab"},
			"bypid":  {PID: sleep.Process.Pid},
			"bypath": {Path: "/run/netns/lab"},
		} {
			b := newNetns(t, env, name, opts)
			id, cookie := b.(stacknode.NetNamespace).NetNS()
			ids = append(ids, id)
			if got := cookieOf(t, mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_STREAM, 0)); got != cookie {
				t.Errorf("%s: socket in namespace %d, want %d", name, got, cookie)
			}
			if _, ok := b.(stacknode.Destroyer); ok {
				t.Errorf("%s: is a Destroyer of a namespace that it did not make", name)
			}
		}
		if ids[0] != ids[1] || ids[1] != ids[2] {
			t.Errorf("namespaces differ: %v", ids)
		}
	})
}

func TestNetnsErrorsNameTheWayOut(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustDo(t, os.MkdirAll("/run/netns", 0o755))
		mustDo(t, os.WriteFile("/run/netns/stray", nil, 0o644))
		dead := exec.Command("true")
		mustDo(t, dead.Run())
		for _, c := range []struct {
			opts stacknode.NetnsSpec
			want string
			err  error
		}{
			{stacknode.NetnsSpec{Name: "lab"}, `no network namespace named "lab" in /run/netns (create it: ip netns add lab)`, unix.ENOENT},
			{stacknode.NetnsSpec{Name: "stray"}, "ip netns del stray", unix.EINVAL},
			{stacknode.NetnsSpec{PID: dead.Process.Pid}, fmt.Sprintf("no process %d", dead.Process.Pid), unix.ESRCH},
			{stacknode.NetnsSpec{Path: "/proc/self/ns/mnt"}, "/proc/self/ns/mnt: a namespace of another kind", unix.EINVAL},
			{stacknode.NetnsSpec{Path: "/dev/null"}, "/dev/null: not a network namespace", unix.EINVAL},
			{stacknode.NetnsSpec{Path: "/nowhere"}, "/nowhere", unix.ENOENT},
			{stacknode.NetnsSpec{ResolvConf: "/nowhere"}, "resolv_conf: open /nowhere", unix.ENOENT},
			{stacknode.NetnsSpec{Sysctl: map[string]string{"net.ipv4.nonsense": "1"}}, "sysctl net/ipv4/nonsense", unix.ENOENT},
			{stacknode.NetnsSpec{Sysctl: map[string]string{"net.ipv4.ip_unprivileged_port_start": "x"}}, "sysctl net/ipv4/ip_unprivileged_port_start", unix.EINVAL},
		} {
			_, err := netns.New(netnsSpec("s", c.opts), netnsEnv(t))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.err) {
				t.Errorf("%+v: got %v, want %q and %v", c.opts, err, c.want, c.err)
			}
		}
		leavesNothing(t)
	})
}

// leavesNothing checks that no pin, journal or link of ours is left.
func leavesNothing(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir("/run/stackfs/test")
	if err != nil && !os.IsNotExist(err) || len(entries) > 0 {
		t.Errorf("left below RunDir: %v, %v", entries, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	mustDo(t, err)
	if strings.Contains(string(mounts), "/run/stackfs/test") {
		t.Errorf("mounts left:\n%s", mounts)
	}
	if links := mustCommand(t, "ip", "-br", "link", "show", "type", "veth"); links != "" {
		t.Errorf("links left:\n%s", links)
	}
}

func TestNetnsMadeWithStackComesAndGoes(t *testing.T) {
	isolated(t, func(t *testing.T) {
		env := netnsEnv(t)
		b := newNetns(t, env, "own", stacknode.NetnsSpec{Addresses: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"),
		}})
		mustNetnsSocket(t, b, unix.AF_INET6, unix.SOCK_DGRAM, 0).Close()
		if _, err := b.Socket(t.Context(), rootCaller(), unix.AF_VSOCK, unix.SOCK_STREAM, 0); !errors.Is(err, unix.EAFNOSUPPORT) {
			t.Errorf("Socket(AF_VSOCK): got %v, want EAFNOSUPPORT", err)
		}
		inNetns(t, b, "ping", "-c1", "-W2", "192.0.2.1")
		inNetns(t, b, "ping", "-c1", "-W2", "2001:db8::1")
		inNetns(t, b, "ping", "-c1", "-W2", "127.0.0.1")
		if names, err := netns.Pinned(env.RunDir); err != nil || len(names) != 1 || names[0] != "own" {
			t.Errorf("Pinned: got %v, %v", names, err)
		}
		endNetns(t, b)
		if _, err := b.Socket(t.Context(), rootCaller(), unix.AF_INET, unix.SOCK_STREAM, 0); !errors.Is(err, unix.ENODEV) {
			t.Errorf("Socket after Close: got %v, want ENODEV", err)
		}
		leavesNothing(t)
	})
}

func TestNetnsIsAdoptedAfterCrash(t *testing.T) {
	isolated(t, func(t *testing.T) {
		env := netnsEnv(t)
		opts := stacknode.NetnsSpec{
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
			Uplink:    &stacknode.Uplink{Type: "veth", PeerAddresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}},
			Routes:    []stacknode.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.2")}},
			Sysctl:    map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"},
		}
		first := newNetns(t, env, "own", opts)
		id, _ := first.(stacknode.NetNamespace).NetNS()
		before := mustCommand(t, "ip", "-br", "link", "show", "type", "veth")
		mustDo(t, first.Close()) // a crash does not even that

		// What was lost meanwhile comes back.
		inNetns(t, first, "ip", "addr", "del", "192.0.2.1/24", "dev", "eth0")
		second := newNetns(t, env, "own", opts)
		if again, _ := second.(stacknode.NetNamespace).NetNS(); again != id {
			t.Errorf("adopted %v, want %v", again, id)
		}
		if after := mustCommand(t, "ip", "-br", "link", "show", "type", "veth"); after != before {
			t.Errorf("links before:\n%safter:\n%s", before, after)
		}
		inNetns(t, second, "ping", "-c1", "-W2", "192.0.2.2")
		mustCommand(t, "ping", "-c1", "-W2", "192.0.2.1")
		mustDo(t, second.Close())

		// Without the uplink in the configuration it is taken back.
		third := newNetns(t, env, "own", stacknode.NetnsSpec{})
		if links := mustCommand(t, "ip", "-br", "link", "show", "type", "veth"); links != "" {
			t.Errorf("links after the option was dropped:\n%s", links)
		}
		if v := inNetns(t, third, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"); v != "1024\n" {
			t.Errorf("ip_unprivileged_port_start: got %q, want 1024 again", v)
		}
		endNetns(t, third)
		leavesNothing(t)
	})
}

func TestNetnsPinLeftOverByCrashIsReplaced(t *testing.T) {
	isolated(t, func(t *testing.T) {
		env := netnsEnv(t)
		mustDo(t, os.MkdirAll(env.RunDir+"/ns", 0o700))
		mustDo(t, os.WriteFile(env.RunDir+"/ns/own", nil, 0o400))
		if names, err := netns.Pinned(env.RunDir); err != nil || len(names) != 0 {
			t.Errorf("Pinned: got %v, %v, want none", names, err)
		}
		endNetns(t, newNetns(t, env, "own", stacknode.NetnsSpec{}))
		leavesNothing(t)
	})
}
