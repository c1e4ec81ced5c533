package snapshot

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

func TestEveryOptionIsKnown(t *testing.T) {
	var o bpfSlot
	v := reflect.ValueOf(&o).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.CanInt():
			f.SetInt(1)
		case f.CanUint():
			f.SetUint(1)
		}
	}
	for _, name := range soccr.OptionNames() {
		if _, set := o.option(name.Name, 1); !set {
			t.Errorf("%s is not known", name.Name)
		}
	}
}

// Options that are not as the kernel makes them are read as getsockopt(2)
// reads them.
func TestOptions(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	values := map[string]int{
		"SO_MARK": 0x89abcdef - 1<<32, "SO_PRIORITY": 5, "IP_TOS": 0x48, "IPV6_TCLASS": 0x68, "IP_TTL": 33,
		"IPV6_UNICAST_HOPS": 44, "IP_MINTTL": 7, "IPV6_MINHOPCOUNT": 8, "IP_MTU_DISCOVER": unix.IP_PMTUDISC_PROBE,
		"IPV6_MTU_DISCOVER": unix.IPV6_PMTUDISC_DO, "SO_BUSY_POLL": 11, "SO_RCVLOWAT": 1234, "SO_PEEK_OFF": 17,
		"TCP_KEEPIDLE": 123, "TCP_KEEPINTVL": 12, "TCP_KEEPCNT": 5, "TCP_SYNCNT": 4, "TCP_LINGER2": 31,
		"TCP_USER_TIMEOUT": 54321, "TCP_NOTSENT_LOWAT": 65432, "TCP_WINDOW_CLAMP": 40_000, "TCP_MAXSEG": 1000,
		"SO_RCVBUF": 100_000, "SO_SNDBUF": 120_000, "SO_BUF_LOCK": 3,
	}
	for _, f := range families {
		for _, change := range []bool{false, true} {
			p := ns.mustPair(t, f.family, f.addr)
			for _, o := range s.facts.known {
				if !change || o.Flags&soccr.FlagInet6 != 0 && f.family != unix.AF_INET6 || o.Name == "IPV6_V6ONLY" {
					continue // the last is too late for a connection
				}
				value, ok := values[o.Name]
				if o.Kind == soccr.KindBool {
					value, ok = 1, true
				}
				var err error
				switch {
				case o.Kind == soccr.KindTimeval:
					tv := unix.Timeval{Sec: 7, Usec: 252_000}
					err = unix.SetsockoptTimeval(p.client.fd, o.Level, o.Opt, &tv)
				case o.Kind == soccr.KindLinger:
					err = unix.SetsockoptLinger(p.client.fd, o.Level, o.Opt, &unix.Linger{Onoff: 1, Linger: 9})
				case o.Kind == soccr.KindRate:
					err = unix.SetsockoptInt(p.client.fd, o.Level, o.Opt, 1_000_000)
				case !ok:
					t.Errorf("%s: no value to test with", o.Name)
				default:
					err = unix.SetsockoptInt(p.client.fd, o.Level, o.Opt, value)
				}
				if err != nil {
					t.Errorf("%s: set %s: %v", f.name, o.Name, err)
				}
			}
			if change {
				must(t, unix.SetsockoptString(p.client.fd, unix.SOL_TCP, unix.TCP_CONGESTION, "reno"))
				must(t, unix.SetsockoptString(p.client.fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"))
			}
			want := &soccr.Conn{Family: f.family}
			must(t, soccr.ReadOptions(p.client.fd, want))
			got := mustTakeConn(t, s, ns, p.client)
			if err := differInOptions(got.Options, want.Options); err != nil {
				t.Errorf("%s, changed %v: %v", f.name, change, err)
			}
			if got.Congestion != want.Congestion || got.Device != want.Device || change && got.Device != "lo" {
				t.Errorf("%s: congestion control %q, device %q, want %q, %q",
					f.name, got.Congestion, got.Device, want.Congestion, want.Device)
			}
			for _, o := range soccr.OptionNames() {
				v, set := got.Options[o.Name]
				if !change && set && (o.Flags&soccr.FlagDefault != 0 || o.Name == "TCP_MAXSEG") {
					t.Errorf("%s: %s is %d, but was not set", f.name, o.Name, v)
				}
				if change && o.Flags&soccr.FlagDefault != 0 && v != int64(values[o.Name]) && want.Options[o.Name] != 0 {
					t.Errorf("%s: %s is %d, want %d", f.name, o.Name, v, values[o.Name])
				}
			}
			if v := got.Options["TCP_MAXSEG"]; change && v != 1000 {
				t.Errorf("%s: TCP_MAXSEG is %d, want 1000", f.name, v)
			}
			mustMatch(t, s, ns, got, p.client)
		}
	}
}

// An option that is V6ONLY, and one set before the connection was made.
func TestV6Only(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	var p pair
	t.Cleanup(p.Close)
	ns.mustDo(t, func() error {
		l, to, err := listen(unix.AF_INET6, netip.IPv6Loopback())
		if err != nil {
			return err
		}
		defer l.Close()
		p.client, err = newEnd(unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
		if err != nil {
			return err
		}
		must(t, unix.SetsockoptInt(p.client.fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1))
		if err := unix.Connect(p.client.fd, to); err != nil && err != unix.EINPROGRESS {
			return err
		}
		p.server, err = l.accept()
		return err
	})
	got := mustTakeConn(t, s, ns, p.client)
	if got.Options["IPV6_V6ONLY"] != 1 {
		t.Errorf("IPV6_V6ONLY is %d", got.Options["IPV6_V6ONLY"])
	}
	mustMatch(t, s, ns, got, p.client)
}

// A link-local address has the interface as its zone.
func TestLinkLocalZone(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	ns.mustDo(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "dm0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "dm1"}); err != nil {
			return err
		}
		for _, name := range []string{"dm0", "dm1"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
			if name != "dm0" {
				continue
			}
			addr, err := netlink.ParseAddr("fe80::1234/64")
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return nil
	})
	var p pair
	t.Cleanup(p.Close)
	ns.mustDo(t, func() error {
		l, to, err := listen(unix.AF_INET6, netip.IPv6Unspecified())
		if err != nil {
			return err
		}
		defer l.Close()
		link, err := netlink.LinkByName("dm0")
		if err != nil {
			return err
		}
		at := to.(*unix.SockaddrInet6)
		at.Addr, at.ZoneId = netip.MustParseAddr("fe80::1234").As16(), uint32(link.Attrs().Index)
		if p.client, err = dial(unix.AF_INET6, at); err != nil {
			return err
		}
		p.server, err = l.accept()
		return err
	})
	for _, e := range []*end{p.client, p.server} {
		got := mustTakeConn(t, s, ns, e)
		if got.Local.Addr().String() != "fe80::1234%dm0" || got.Remote.Addr().String() != "fe80::1234%dm0" {
			t.Errorf("addresses %v and %v", got.Local, got.Remote)
		}
		mustMatch(t, s, ns, got, e)
	}
}
