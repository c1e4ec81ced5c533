package fstests

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/netns"
	"github.com/stackfs/stackfs/stacknode"
)

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func TestNetnsUplinkToBridge(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "link", "add", "br0", "type", "bridge")
		mustCommand(t, "ip", "addr", "add", "192.0.2.254/24", "dev", "br0")
		mustCommand(t, "ip", "link", "set", "br0", "up")
		env := netnsEnv(t)
		mk := func(name, addr string) stacknode.Backend {
			return newNetns(t, env, name, stacknode.NetnsSpec{
				Addresses: prefixes(addr),
				Uplink:    &stacknode.Uplink{Type: "veth", Name: "up0", Bridge: "br0", MAC: "02:00:00:00:00:" + name, MTU: 1400},
				Routes: []stacknode.Route{
					{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.254")},
					{To: netip.MustParsePrefix("198.51.100.0/24")},
				},
			})
		}
		a, b := mk("0a", "192.0.2.1/24"), mk("0b", "192.0.2.2/24")
		inNetns(t, a, "ping", "-c1", "-W5", "192.0.2.2")
		inNetns(t, b, "ping", "-c1", "-W5", "192.0.2.254")
		link := inNetns(t, a, "ip", "link", "show", "up0")
		for _, want := range []string{"mtu 1400", "02:00:00:00:00:0a"} {
			if !strings.Contains(link, want) {
				t.Errorf("up0 lacks %q:\n%s", want, link)
			}
		}
		routes := inNetns(t, a, "ip", "route")
		for _, want := range []string{"default via 192.0.2.254 dev up0", "198.51.100.0/24 dev up0"} {
			if !strings.Contains(routes, want) {
				t.Errorf("no route %q:\n%s", want, routes)
			}
		}
		if ports := mustCommand(t, "ip", "-br", "link", "show", "master", "br0"); !strings.Contains(ports, "sf-0a") || !strings.Contains(ports, "sf-0b") {
			t.Errorf("ports of br0:\n%s", ports)
		}
		endNetns(t, a)
		endNetns(t, b)
		leavesNothing(t)
	})
}

func TestNetnsFailureInTheMiddleLeavesNothing(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "link", "add", "dummy0", "type", "veth", "peer", "name", "dummy1")
		t.Cleanup(func() { tryCommand("ip", "link", "del", "dummy0") })
		before := mustCommand(t, "ip", "-br", "link")
		veth := &stacknode.Uplink{Type: "veth"}
		for _, c := range []struct {
			what string
			opts stacknode.NetnsSpec
			want string
			err  error
		}{
			{"no bridge", stacknode.NetnsSpec{Uplink: &stacknode.Uplink{Type: "veth", Bridge: "br9"}}, "ip link add br9 type bridge", unix.ENODEV},
			{"bridge is none", stacknode.NetnsSpec{Uplink: &stacknode.Uplink{Type: "veth", Bridge: "dummy0"}}, "dummy0 is a veth, not a bridge", unix.EINVAL},
			{"peer taken", stacknode.NetnsSpec{Uplink: &stacknode.Uplink{Type: "veth", Peer: "dummy0"}}, "set uplink.peer", unix.EEXIST},
			{"no parent", stacknode.NetnsSpec{Uplink: &stacknode.Uplink{Type: "macvlan", Parent: "eth9"}}, "no link eth9 on the host", unix.ENODEV},
			{"gateway out of reach", stacknode.NetnsSpec{Uplink: veth, Addresses: prefixes("192.0.2.1/24"),
				Routes: []stacknode.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("198.51.100.1")}}},
				"route to 0.0.0.0/0 via 198.51.100.1 dev eth0", unix.ENETUNREACH},
			{"no device", stacknode.NetnsSpec{Uplink: veth, Routes: []stacknode.Route{{To: netip.MustParsePrefix("198.51.100.0/24"), Dev: "eth7"}}},
				"no link eth7 in the namespace", unix.ENODEV},
			{"late sysctl", stacknode.NetnsSpec{Uplink: veth, Sysctl: map[string]string{"net.ipv4.conf.eth0.nonsense": "1"}},
				"sysctl net/ipv4/conf/eth0/nonsense", unix.ENOENT},
		} {
			_, err := netns.New(netnsSpec("own", c.opts), netnsEnv(t))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.err) {
				t.Errorf("%s: got %v, want %q and %v", c.what, err, c.want, c.err)
			}
			if after := mustCommand(t, "ip", "-br", "link"); after != before {
				t.Errorf("%s: links before:\n%safter:\n%s", c.what, before, after)
			}
		}
		mustCommand(t, "ip", "link", "del", "dummy0")
		leavesNothing(t)
	})
}

// Kernels without macvlan say so; with it, it is made and goes.
func TestNetnsMacvlan(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "link", "add", "par0", "type", "veth", "peer", "name", "par1")
		env := netnsEnv(t)
		b, err := netns.New(netnsSpec("own", stacknode.NetnsSpec{
			Addresses: prefixes("192.0.2.1/24"),
			Uplink:    &stacknode.Uplink{Type: "macvlan", Parent: "par0", MAC: "02:00:00:00:00:01"},
		}), env)
		if err != nil {
			if _, kerr := tryCommand("ip", "link", "add", "mv0", "link", "par1", "type", "macvlan"); kerr == nil {
				t.Fatalf("the kernel has macvlan, but: %v", err)
			}
			if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "kernel has no macvlan") {
				t.Errorf("without macvlan: got %v", err)
			}
		} else {
			if link := inNetns(t, b, "ip", "-d", "link", "show", "eth0"); !strings.Contains(link, "macvlan") || !strings.Contains(link, "02:00:00:00:00:01") {
				t.Errorf("eth0:\n%s", link)
			}
			endNetns(t, b)
		}
		mustCommand(t, "ip", "link", "del", "par0")
		leavesNothing(t)
	})
}

func TestNetnsOptionsOnExistingNamespaceAreTakenBack(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "netns", "add", "lab")
		in := func(args ...string) string { return mustCommand(t, append([]string{"ip", "-n", "lab"}, args...)...) }
		in("addr", "add", "192.0.2.1/24", "dev", "lo")
		state := func() string {
			return in("-o", "addr") + in("-br", "link") + in("route") + mustCommand(t, "ip", "netns", "exec", "lab", "cat", "/proc/sys/net/ipv4/ip_forward")
		}
		before := state()
		b := newNetns(t, netnsEnv(t), "lab", stacknode.NetnsSpec{
			Name:      "lab",
			Addresses: prefixes("198.51.100.1/24", "2001:db8::1/64"),
			Routes:    []stacknode.Route{{To: netip.MustParsePrefix("203.0.113.0/24"), Via: netip.MustParseAddr("198.51.100.2")}},
			Uplink:    &stacknode.Uplink{Type: "veth"},
			Sysctl:    map[string]string{"net.ipv4.ip_forward": "1"},
		})
		if after := state(); !strings.Contains(after, "198.51.100.1/24") || !strings.Contains(after, "203.0.113.0/24 via") || !strings.Contains(after, "\n1\n") {
			t.Errorf("not set:\n%s", after)
		}
		endNetns(t, b)
		if after := state(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}

		// On lo, where one address was there before.
		b = newNetns(t, netnsEnv(t), "lab", stacknode.NetnsSpec{Name: "lab", Addresses: prefixes("192.0.2.1/24", "192.0.2.7/32")})
		mustCommand(t, "ip", "netns", "exec", "lab", "ping", "-c1", "-W2", "192.0.2.7")
		endNetns(t, b)
		if after := state(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		leavesNothing(t)
	})
}

func TestNetnsUplinkLeavesLinksOfOthersAlone(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "netns", "add", "lab")
		mustCommand(t, "ip", "link", "add", "h0", "type", "veth", "peer", "name", "eth0", "netns", "lab")
		_, err := netns.New(netnsSpec("lab", stacknode.NetnsSpec{Name: "lab", Uplink: &stacknode.Uplink{Type: "veth"}}), netnsEnv(t))
		if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "set uplink.name") {
			t.Errorf("got %v, want EEXIST and the option to set", err)
		}
		mustCommand(t, "ip", "-n", "lab", "link", "show", "eth0")
		mustCommand(t, "ip", "link", "del", "h0")
		leavesNothing(t)
	})
}

func TestNetnsUplinkEndsWithItsNamespace(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "netns", "add", "lab")
		env := netnsEnv(t)
		b := newNetns(t, env, "lab", stacknode.NetnsSpec{Name: "lab", Uplink: &stacknode.Uplink{Type: "veth"}})
		mustCommand(t, "ip", "netns", "del", "lab")
		mustDo(t, b.Close())
		eventually(t, time.Second, "the peer of the uplink gone", func() bool {
			out, _ := tryCommand("ip", "-br", "link", "show", "type", "veth")
			return out == ""
		})
		endNetns(t, b)
		leavesNothing(t)
	})
}

func TestNetnsWithoutMPTCP(t *testing.T) {
	isolated(t, func(t *testing.T) {
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{NoMPTCP: true})
		_, err := b.Socket(t.Context(), rootCaller(), unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
		if !errors.Is(err, unix.ENOPROTOOPT) && !errors.Is(err, unix.EPROTONOSUPPORT) {
			t.Errorf("Socket(IPPROTO_MPTCP): got %v, want an error", err)
		}
		mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_STREAM, 0)
	})
}

func TestNetnsNameFiles(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustDo(t, unix.Mount("tmpfs", "/etc", "tmpfs", 0, ""))
		mustDo(t, os.MkdirAll("/etc/netns/lab/sub", 0o755))
		mustDo(t, os.WriteFile("/etc/netns/lab/hosts", []byte("192.0.2.1 lab\n"), 0o644))
		mustDo(t, os.WriteFile("/etc/netns/lab/resolv.conf", []byte("nameserver 192.0.2.9\n"), 0o644))
		mustDo(t, os.WriteFile("/run/resolv", []byte("nameserver 192.0.2.8\n"), 0o644))
		mustDo(t, unix.Mkfifo("/etc/netns/lab/fifo", 0o600))
		mustCommand(t, "ip", "netns", "add", "lab")
		for _, c := range []struct {
			name string
			opts stacknode.NetnsSpec
			want map[string]string
		}{
			{"x", stacknode.NetnsSpec{Name: "lab"}, map[string]string{"hosts": "192.0.2.1 lab\n", "resolv.conf": "nameserver 192.0.2.9\n"}},
			{"lab", stacknode.NetnsSpec{ResolvConf: "/run/resolv"}, map[string]string{"hosts": "192.0.2.1 lab\n", "resolv.conf": "nameserver 192.0.2.8\n"}},
			{"y", stacknode.NetnsSpec{ResolvConf: "nameserver 192.0.2.7\n"}, map[string]string{"resolv.conf": "nameserver 192.0.2.7\n"}},
			{"z", stacknode.NetnsSpec{}, nil},
		} {
			files, err := newNetns(t, netnsEnv(t), c.name, c.opts).(stacknode.NameService).NameFiles()
			mustDo(t, err)
			if len(files) != len(c.want) || c.want == nil && files != nil {
				t.Errorf("%s: got %q, want %q", c.name, files, c.want)
			}
			for k, want := range c.want {
				if string(files[k]) != want {
					t.Errorf("%s: %s: got %q, want %q", c.name, k, files[k], want)
				}
			}
		}
	})
}

func TestNetnsGoneIsToldWhenProcessEnds(t *testing.T) {
	isolated(t, func(t *testing.T) {
		sleep := newSleeper(t)
		env := netnsEnv(t)
		gone := make(chan string, 1)
		env.Gone = func(stack string) { gone <- stack }
		b := newNetns(t, env, "p", stacknode.NetnsSpec{PID: sleep.Process.Pid})
		mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_STREAM, 0)
		sleep.Process.Kill()
		select {
		case name := <-gone:
			if name != "p" {
				t.Errorf("gone: %q", name)
			}
		case <-time.After(5 * time.Second):
			t.Error("not told of the end of the process")
		}
		mustDo(t, b.Close())
	})
}

func TestNetnsSweepTakesBackWhatNoStackHas(t *testing.T) {
	isolated(t, func(t *testing.T) {
		for _, name := range []string{"lab", "kept", "gone"} {
			mustCommand(t, "ip", "netns", "add", name)
		}
		env := netnsEnv(t)
		for _, name := range []string{"lab", "kept", "gone"} {
			b, err := netns.New(netnsSpec(name, stacknode.NetnsSpec{
				Name: name, Uplink: &stacknode.Uplink{Type: "veth"}, Sysctl: map[string]string{"net.ipv4.ip_forward": "1"},
			}), env)
			mustDo(t, err)
			mustDo(t, b.Close()) // and nothing is destroyed: a crash
		}
		mustCommand(t, "ip", "netns", "del", "gone")
		mustDo(t, netns.Sweep(env, func(stack string) bool { return stack == "kept" }))
		eventually(t, time.Second, "the uplink of gone goes with it", func() bool {
			links := mustCommand(t, "ip", "-br", "link", "show", "type", "veth")
			return strings.HasPrefix(links, "sf-kept@") && strings.Count(links, "\n") == 1
		})
		for name, want := range map[string]string{"lab": "0\n", "kept": "1\n"} {
			if got := mustCommand(t, "ip", "netns", "exec", name, "cat", "/proc/sys/net/ipv4/ip_forward"); got != want {
				t.Errorf("%s: ip_forward is %q, want %q", name, got, want)
			}
		}
		mustDo(t, netns.Sweep(env, func(string) bool { return false }))
		leavesNothing(t)
	})
}
