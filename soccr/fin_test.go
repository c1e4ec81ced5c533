package soccr

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSegment(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ from, to string }{
		{"192.0.2.1:80", "198.51.100.255:65535"},
		{"[2001:db8::1]:80", "[fe80::ffff]:65535"},
	} {
		b := segment(mustAddrPort(test.from), mustAddrPort(test.to), 0xfffffffe, 0x01020304, flagFIN|flagACK)
		head, addrs := 20, b[12:20]
		if b[0]>>4 == 6 {
			head, addrs = 40, b[8:40]
		}
		tcp := b[head:]
		if len(tcp) != 20 {
			t.Fatalf("%s: %d bytes", test.from, len(b))
		}
		// RFC 1071: with its checksum the sum is all ones.
		if got := sum(20+unix.IPPROTO_TCP, addrs, tcp); got != 0xffff {
			t.Errorf("%s: sum %#x, want 0xffff", test.from, got)
		}
		be := binary.BigEndian
		if be.Uint16(tcp) != 80 || be.Uint16(tcp[2:]) != 65535 || be.Uint32(tcp[4:]) != 0xfffffffe ||
			be.Uint32(tcp[8:]) != 0x01020304 || tcp[12] != 0x50 || tcp[13] != 0x11 {
			t.Errorf("%s: % x", test.from, tcp)
		}
	}
}

// A FIN must reach sockets that are bound to a device, that have link-local
// addresses, that ask for a TTL, and whose stack drops what comes from
// where it has no route to.
func TestPeersFINReachesTheSocket(t *testing.T) {
	t.Parallel()
	linkLocal := family{"link-local", unix.AF_INET6, "fe80::a%va", "fe80::b%vb", ""}
	for _, f := range append(families, linkLocal) {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			from, to, peer := newNetNS(t), newNetNS(t), newNetNS(t)
			vethPair(t, from, peer)
			p := connectPair(t, f, f.a, f.b,
				func(fn func()) { from.do(t, fn) }, func(fn func()) { peer.do(t, fn) })
			check(t, unix.BindToDevice(p.a, "va"))
			check(t, unix.SetsockoptInt(p.a, unix.SOL_IP, unix.IP_MINTTL, 64))
			if f.domain == unix.AF_INET6 {
				check(t, unix.SetsockoptInt(p.a, unix.SOL_IPV6, unix.IPV6_MINHOPCOUNT, 64))
			}
			hear := p.reach(CloseWait)
			c := saveAndDiscard(t, p.a)
			if f.name == "link-local" && (c.Local.Addr().Zone() != "va" || c.Remote.Addr().Zone() != "va") {
				t.Errorf("saved %v to %v", c.Local, c.Remote)
			}
			moveVeth(t, from, to)
			var fd int
			to.do(t, func() {
				for _, name := range []string{"all", "va", "lo"} {
					sysctl(t, "net/ipv4/conf/"+name+"/rp_filter", "1")
				}
				fd = open(t, f.domain)
			})
			// From any thread: Restore finds the socket's namespace.
			check(t, Restore(fd, c))
			hear()
			p.finish(fd, CloseWait)
		})
	}
}
