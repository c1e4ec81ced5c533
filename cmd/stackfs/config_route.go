package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/stackfs/stackfs/stacknode"
)

// parseRoute reads a route as ip-route(8) writes it: a destination or
// "default", then "via ADDRESS" and "dev LINK". Without a dev it goes to
// the uplink.
func parseRoute(text string, hasUplink bool) (stacknode.Route, error) {
	var r stacknode.Route
	words := strings.Fields(text)
	if len(words) == 0 {
		return r, errors.New(`is empty (write "default via 10.9.0.1" or "10.8.0.0/16 dev eth0")`)
	}
	seen := map[string]string{}
	for rest := words[1:]; len(rest) > 0; rest = rest[2:] {
		word := rest[0]
		switch {
		case word != "via" && word != "dev":
			return r, fmt.Errorf("unexpected %q (only via and dev follow the destination)", word)
		case seen[word] != "":
			return r, fmt.Errorf("%s is there twice", word)
		case len(rest) == 1:
			return r, fmt.Errorf("nothing follows %s", word)
		}
		seen[word] = rest[1]
	}
	if dev := seen["dev"]; dev != "" {
		if err := checkLinkName(dev); err != nil {
			return r, err
		}
		r.Dev = dev
	}
	if via := seen["via"]; via != "" {
		a, err := netip.ParseAddr(via)
		if err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
			return r, fmt.Errorf("%q is no address of a router", via)
		}
		r.Via = a
	}
	var err error
	if r.To, err = parseDestination(words[0], r.Via); err != nil {
		return r, err
	}
	switch {
	case r.Via.IsValid() && r.Via.Is4() != r.To.Addr().Is4():
		return r, fmt.Errorf("%s and %s are of different families", r.To, r.Via)
	case !r.Via.IsValid() && r.Dev == "" && !hasUplink:
		return r, errors.New("leads nowhere: there is no uplink, and neither via nor dev is given")
	}
	return r, nil
}

// parseDestination reads what a route leads to. "default" is of the family
// of the router, IPv4 without one.
func parseDestination(text string, via netip.Addr) (netip.Prefix, error) {
	if text == "default" {
		if via.Is6() {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), nil
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), nil
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		text = fmt.Sprintf("%s/%d", a, a.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%q is no destination (an address, a prefix as 10.8.0.0/16, or default)", text)
	case p.Masked() != p:
		return p, fmt.Errorf("%s has bits beyond its prefix length (%s is the network)", p, p.Masked())
	}
	return p, nil
}
