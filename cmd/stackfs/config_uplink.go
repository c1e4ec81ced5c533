package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/stackfs/stackfs/stacknode"
)

// Limits of the kernel for a link: IFNAMSIZ without the NUL, ETH_MIN_MTU and
// ETH_MAX_MTU.
const (
	maxLinkName    = 15
	minMTU, maxMTU = 68, 65535
)

// keysOfUplink are the keys that only one type of uplink has.
var keysOfUplink = map[string][]string{
	"veth":    {"type", "name", "mac", "mtu", "peer", "bridge", "peer_addresses"},
	"macvlan": {"type", "name", "mac", "mtu", "parent"},
}

// uplink reads an uplink; key is the path of its table.
func (s *source) uplink(key string, f fileUplink) *stacknode.Uplink {
	u := &stacknode.Uplink{Type: str(f.Type), Name: "eth0"}
	allowed, ok := keysOfUplink[u.Type]
	switch {
	case f.Type == nil:
		s.bad(key, `type is missing ("veth" or "macvlan")`)
		return u
	case !ok:
		s.bad(key+".type", "unknown type %q%s", u.Type, didYouMean(u.Type, []string{"macvlan", "veth"}))
		return u
	}
	s.onlyKeys(key, allowed, f, "an uplink of type "+u.Type+" has no such key")

	for _, link := range []struct {
		key  string
		from *string
		to   *string
	}{
		{"name", f.Name, &u.Name}, {"peer", f.Peer, &u.Peer},
		{"bridge", f.Bridge, &u.Bridge}, {"parent", f.Parent, &u.Parent},
	} {
		if link.from == nil {
			continue
		}
		*link.to = *link.from
		if err := checkLinkName(*link.from); err != nil {
			s.bad(key+"."+link.key, "%w", err)
		}
	}
	if u.Name == "lo" {
		s.bad(key+".name", "lo is the loopback of the namespace")
	}
	if u.Type == "macvlan" && f.Parent == nil {
		s.bad(key, "parent is missing: the link of the host that a macvlan is on")
	}
	if f.Bridge != nil && f.PeerAddresses != nil {
		s.bad(key+".peer_addresses", "conflicts with bridge: the addresses belong on the bridge then")
	}
	u.PeerAddresses = s.prefixes(key+".peer_addresses", f.PeerAddresses)
	if f.MAC != nil {
		u.MAC = *f.MAC
		mac, err := net.ParseMAC(u.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
			s.bad(key+".mac", "%q is no Ethernet address of one station as 02:00:00:00:00:01", u.MAC)
		}
	}
	if f.MTU != nil {
		u.MTU = int(min(*f.MTU, maxMTU))
		if *f.MTU < minMTU || *f.MTU > maxMTU {
			s.bad(key+".mtu", "%d is not between %d and %d bytes", *f.MTU, minMTU, maxMTU)
		}
	}
	return u
}

// checkLinkName follows dev_valid_name of the kernel, and refuses the %
// that the kernel would replace by a number.
func checkLinkName(name string) error {
	if name == "" || len(name) > maxLinkName || name == "." || name == ".." ||
		strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || strings.ContainsRune("/:%\x7f", r) }) {
		return fmt.Errorf("%q is no name for a link (1 to %d bytes, no slash, colon, percent or space)", name, maxLinkName)
	}
	return nil
}

func str(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
