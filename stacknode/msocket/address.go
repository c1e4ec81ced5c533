package msocket

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A network is "tcp4" in parts.
type network struct {
	name   string
	typ    int  // SOCK_STREAM, SOCK_DGRAM
	v4, v6 bool // address families that it allows
}

func parseNetwork(name string) (network, error) {
	n := network{name: name, v4: true, v6: true}
	base := name
	switch {
	case strings.HasSuffix(name, "4"):
		base, n.v6 = name[:len(name)-1], false
	case strings.HasSuffix(name, "6"):
		base, n.v4 = name[:len(name)-1], false
	}
	switch base {
	case "tcp":
		n.typ = unix.SOCK_STREAM
	case "udp":
		n.typ = unix.SOCK_DGRAM
	case "unix", "unixgram", "unixpacket":
		return n, fmt.Errorf("%s: UNIX sockets are in no stack: %w", name, unix.EAFNOSUPPORT)
	default:
		return n, net.UnknownNetworkError(name)
	}
	return n, nil
}

// ip is the network of [net.Resolver.LookupNetIP] for the same families.
func (n network) ip() string {
	switch {
	case !n.v6:
		return "ip4"
	case !n.v4:
		return "ip6"
	}
	return "ip"
}

func (n network) allows(a netip.Addr) bool { return a.Is4() && n.v4 || a.Is6() && n.v6 }

// split takes address apart. The service of the port is looked up locally.
func (n network) split(ctx context.Context, address string) (host string, port uint16, err error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if p, err := strconv.ParseUint(service, 10, 16); err == nil {
		return host, uint16(p), nil
	}
	p, err := net.DefaultResolver.LookupPort(ctx, n.name, service)
	return host, uint16(p), err
}

// resolve returns the addresses of host, in the order in which to try them.
func (s Stack) resolve(ctx context.Context, n network, host string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a.Unmap()}
	} else if addrs, err = s.lookup(ctx, n, host); err != nil {
		return nil, err
	}
	var list []netip.Addr
	for _, a := range addrs {
		if n.allows(a) {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return nil, &net.AddrError{Err: "no suitable address", Addr: host}
	}
	return list, nil
}

// family returns the address family of a.
func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// sockaddr is a and port for the socket f, in whose stack the zone of a is
// a link.
func sockaddr(f *os.File, a netip.Addr, port uint16) (unix.Sockaddr, error) {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}, nil
	}
	zone, err := zoneIndex(f, a.Zone())
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16(), ZoneId: zone}, err
}

func zoneIndex(f *os.File, zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	ifr, err := unix.NewIfreq(zone)
	if err == nil {
		err = borrow(f, func(fd int) error { return unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr) })
	}
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", zone, err)
	}
	return ifr.Uint32(), nil
}
