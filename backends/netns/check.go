package netns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// maxLinkName is IFNAMSIZ without the NUL.
const maxLinkName = 15

// Check returns an error if the netns options of spec contradict each other
// or cannot be: everything that shows without a look at the system. The
// error names the option.
func Check(spec stacknode.Spec) error {
	s := spec.Netns
	if err := checkSource(s); err != nil {
		return err
	}
	if err := checkUplink(s.Uplink); err != nil {
		return err
	}
	for _, p := range s.Addresses {
		if err := checkAddress("addresses", p); err != nil {
			return err
		}
	}
	if s.LoDown && s.Uplink == nil && len(s.Addresses) > 0 {
		return invalid("addresses: without an uplink they are set on lo, which lo_down keeps down")
	}
	for _, r := range s.Routes {
		if err := checkRoute(r, s.Uplink != nil); err != nil {
			return err
		}
	}
	for key := range s.Sysctl {
		p, err := sysctlPath(key)
		if err != nil {
			return err
		}
		if s.NoMPTCP && p == mptcpEnabled {
			return invalid("sysctl %s: mptcp = false sets it already", key)
		}
	}
	return nil
}

func checkSource(s stacknode.NetnsSpec) error {
	given := 0
	for _, set := range []bool{s.Name != "", s.PID != 0, s.Path != ""} {
		if set {
			given++
		}
	}
	switch {
	case given > 1:
		return invalid("name, pid and path exclude each other")
	case s.PID < 0:
		return invalid("pid %d is not positive", s.PID)
	case s.Path != "" && s.Path[0] != '/':
		return invalid("path %q does not start with a slash", s.Path)
	}
	return nil
}

func checkUplink(u *stacknode.Uplink) error {
	if u == nil {
		return nil
	}
	for opt, name := range map[string]string{"name": u.Name, "peer": u.Peer, "bridge": u.Bridge, "parent": u.Parent} {
		if name != "" {
			if err := checkLinkName("uplink."+opt, name); err != nil {
				return err
			}
		}
	}
	switch u.Type {
	case "veth":
		if u.Parent != "" {
			return invalid("uplink.parent is for macvlan, not veth (a bridge is uplink.bridge)")
		}
		if u.Bridge != "" && len(u.PeerAddresses) > 0 {
			return invalid("uplink.peer_addresses: the end on the host is a port of bridge %s; give the bridge the addresses", u.Bridge)
		}
	case "macvlan":
		if u.Parent == "" {
			return invalid("uplink.parent: macvlan needs the link of the host that it shares")
		}
		if u.Peer != "" || u.Bridge != "" || len(u.PeerAddresses) > 0 {
			return invalid("uplink.peer, uplink.bridge and uplink.peer_addresses are for veth, not macvlan")
		}
	default:
		return invalid("uplink.type %q is neither veth nor macvlan", u.Type)
	}
	for _, p := range u.PeerAddresses {
		if err := checkAddress("uplink.peer_addresses", p); err != nil {
			return err
		}
	}
	if u.MAC != "" {
		mac, err := net.ParseMAC(u.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return invalid("uplink.mac %q is not the unicast address of an Ethernet link", u.MAC)
		}
	}
	if u.MTU != 0 && (u.MTU < 68 || u.MTU > 65535) {
		return invalid("uplink.mtu %d is not between 68 and 65535", u.MTU)
	}
	return nil
}

// checkLinkName follows dev_valid_name of the kernel, and refuses the %
// by which the kernel numbers names.
func checkLinkName(opt, name string) error {
	switch {
	case len(name) > maxLinkName:
		return invalid("%s: the link name %q is longer than %d bytes", opt, name, maxLinkName)
	case name == "." || name == "..",
		strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || strings.ContainsRune("/:%\x7f", c) }):
		return invalid("%s: %q is no name for a link", opt, name)
	}
	return nil
}

func checkAddress(opt string, p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Is4In6() || p.Addr().IsUnspecified() || p.Addr().IsMulticast() {
		return invalid("%s: %v is no address with a prefix length", opt, p)
	}
	return nil
}

func checkRoute(r stacknode.Route, uplink bool) error {
	switch {
	case !r.To.IsValid() || r.To.Addr().Is4In6():
		return invalid("routes: %v is no destination", r.To)
	case r.Via.IsValid() && r.Via.Is4() != r.To.Addr().Is4():
		return invalid("routes: %v via %v: the families differ", r.To, r.Via)
	case r.Dev == "" && !uplink && !r.Via.IsValid():
		return invalid("routes: %v: without an uplink a route needs via or dev", r.To)
	case r.Dev != "":
		return checkLinkName("routes: dev", r.Dev)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), unix.EINVAL)
}
