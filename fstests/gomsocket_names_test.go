package fstests

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/stackfs/stackfs/stacknode/msocket"
)

func TestGoNamesAreLookedUpInTheStack(t *testing.T) {
	m, a, b := pairMount(t, Config{})
	ctx := testContext(t)
	named := func(name, resolv string) msocket.Stack {
		t.Helper()
		m.MustCtl(fmt.Sprintf("add %s netns = %q, resolv_conf = %q", name, a.Name, resolv))
		t.Cleanup(func() {
			msocket.CloseIdle()
			m.MustCtl("remove " + name)
		})
		return msocket.Stack{Path: m.Path(name)}
	}
	for _, ip := range []netip.Addr{b.IP4, b.IP6} {
		server, err := msocket.ListenPacket(ctx, m.Path("b"), "udp", netip.AddrPortFrom(ip, 53).String())
		if err != nil {
			t.Fatal(err)
		}
		serveDNS(t, server, map[string]netip.Addr{"host.lab.test.": b.IP4, "host6.lab.test.": b.IP6})
	}
	l, err := msocket.Listen(ctx, m.Path("b"), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for name, resolv := range map[string]string{
		"n4": fmt.Sprintf("nameserver %s\nsearch lab.test\n", b.IP4),
		"n6": fmt.Sprintf("nameserver %s\nsearch lab.test\n", b.IP6),
	} {
		st := named(name, resolv)
		for _, host := range []string{"host.lab.test", "host", "host6", "host.lab.test."} {
			conn, err := st.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
			if err != nil {
				t.Errorf("%s: Dial(%s): %v", name, host, err)
				continue
			}
			checkEcho(t, conn)
			conn.Close()
		}
		if addrs, err := st.Resolver().LookupHost(ctx, "host.lab.test"); err != nil || len(addrs) != 1 || addrs[0] != b.IP4.String() {
			t.Errorf("%s: LookupHost: got %v, %v, want %v", name, addrs, err, b.IP4)
		}
		var missing *net.DNSError
		if c, err := st.DialContext(ctx, "tcp", "nowhere.lab.test:1"); !errors.As(err, &missing) || !missing.IsNotFound {
			t.Errorf("%s: an unknown name: got %v, %v", name, c, err)
		}
	}
}
