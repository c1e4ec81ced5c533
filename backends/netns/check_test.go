package netns

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

func TestCheckNamesTheOption(t *testing.T) {
	t.Parallel()
	addr := netip.MustParsePrefix("192.0.2.1/24")
	veth := func(f func(*stacknode.Uplink)) stacknode.NetnsSpec {
		u := &stacknode.Uplink{Type: "veth"}
		f(u)
		return stacknode.NetnsSpec{Uplink: u}
	}
	for want, spec := range map[string]stacknode.NetnsSpec{
		"name, pid and path":      {Name: "a", PID: 1},
		"pid -1":                  {PID: -1},
		`path "a"`:                {Path: "a"},
		"lo_down":                 {LoDown: true, Addresses: []netip.Prefix{addr}},
		"addresses":               {Addresses: []netip.Prefix{{}}},
		"addresses: ::ffff":       {Addresses: []netip.Prefix{netip.MustParsePrefix("::ffff:1.2.3.4/120")}},
		"routes: invalid Prefix":  {Routes: []stacknode.Route{{}}},
		"needs via or dev":        {Routes: []stacknode.Route{{To: addr}}},
		"the families differ":     {Routes: []stacknode.Route{{To: addr, Via: netip.MustParseAddr("::1")}}},
		`routes: dev`:             {Routes: []stacknode.Route{{To: addr, Dev: "a/b"}}},
		`uplink.type "x"`:         {Uplink: &stacknode.Uplink{Type: "x"}},
		"uplink.parent":           {Uplink: &stacknode.Uplink{Type: "macvlan"}},
		"are for veth":            {Uplink: &stacknode.Uplink{Type: "macvlan", Parent: "p", Bridge: "b"}},
		"uplink.parent is for":    veth(func(u *stacknode.Uplink) { u.Parent = "p" }),
		"uplink.peer_addresses":   veth(func(u *stacknode.Uplink) { u.Bridge, u.PeerAddresses = "b", []netip.Prefix{addr} }),
		"longer than 15":          veth(func(u *stacknode.Uplink) { u.Name = "sixteen-bytes-xx" }),
		`uplink.peer: "a%d"`:      veth(func(u *stacknode.Uplink) { u.Peer = "a%d" }),
		"uplink.mac":              veth(func(u *stacknode.Uplink) { u.MAC = "01:00:00:00:00:00" }),
		"uplink.mtu 67":           veth(func(u *stacknode.Uplink) { u.MTU = 67 }),
		`sysctl "kernel.panic"`:   {Sysctl: map[string]string{"kernel.panic": "1"}},
		"mptcp = false":           {NoMPTCP: true, Sysctl: map[string]string{"net.mptcp.enabled": "1"}},
		`sysctl "net/../kernel/x`: {Sysctl: map[string]string{"net/../kernel/x": "1"}},
	} {
		err := Check(stacknode.Spec{Name: "s", Netns: spec})
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, unix.EINVAL) {
			t.Errorf("got %v, want EINVAL and %q", err, want)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":               "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":               "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/5.forwarding":   "net/ipv4/conf/eth0.5/forwarding",
		"net/ipv4/conf/eth0.5/forwarding":   "net/ipv4/conf/eth0.5/forwarding",
		"net":                               "",
		"":                                  "",
		"net.":                              "",
		"net..ipv4":                         "",
		"net/../kernel/panic":               "",
		"net.//.kernel.panic":               "",
		"/net/ipv4/ip_forward":              "",
		"networks.ipv4":                     "",
		"net.ipv4.ip_forward\n":             "",
		"net/ipv4/./ip_forward":             "",
		"net.ipv4.conf./.forwarding":        "",
		"../../etc/passwd":                  "",
		"net.ipv4.ip_local_port_range ":     "",
		"net.ipv6.conf.all.disable_ipv6":    "net/ipv6/conf/all/disable_ipv6",
		"net.ipv4.ip_unprivileged_port_sta": "net/ipv4/ip_unprivileged_port_sta",
	} {
		got, err := sysctlPath(key)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("sysctlPath(%q): got %q, %v, want %q", key, got, err, want)
		}
	}
}

// FuzzSysctlPath checks that no key leads out of /proc/sys/net.
func FuzzSysctlPath(f *testing.F) {
	f.Add("net.ipv4.ip_forward")
	f.Add("net/../kernel")
	f.Add("net.//.kernel")
	f.Fuzz(func(t *testing.T, key string) {
		p, err := sysctlPath(key)
		if err != nil {
			return
		}
		for i, part := range strings.Split(p, "/") {
			if part == "" || part == "." || part == ".." || i == 0 && part != "net" {
				t.Errorf("sysctlPath(%q) = %q", key, p)
			}
		}
	})
}

func TestHostNamesFitAndDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, runDir := range []string{"/run/a", "/run/b"} {
		for _, stack := range []string{"lab", "exactly-12-by", "exactly-12-b", "ünï", "a%d", strings.Repeat("x", 63), strings.Repeat("x", 62)} {
			names := hostNames(runDir, stack)
			for _, n := range names {
				if err := checkLinkName("peer", n); err != nil {
					t.Errorf("%s: %v", stack, err)
				}
			}
			last := names[len(names)-1]
			if other, taken := seen[last]; taken {
				t.Errorf("%s of %s and %s", last, stack, other)
			}
			seen[last] = stack
		}
	}
	if got := hostNames("/run/a", "lab")[0]; got != "sf-lab" {
		t.Errorf("got %q, want sf-lab", got)
	}
}
