package main

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stackfs/stackfs/stacknode"
)

// netns reads the keys of a netns stack; key is the path of its table.
func (s *source) netns(key string, f fileStack) stacknode.NetnsSpec {
	var n stacknode.NetnsSpec
	existing := s.existing(key, f, &n)
	made := f.Create == nil || *f.Create
	switch {
	case existing != "" && f.Create != nil && *f.Create:
		s.bad(key+".create", "conflicts with %s, which names a namespace that exists", existing)
	case existing == "" && !made:
		s.bad(key+".create", "is false, but none of netns, pid and path names a namespace")
	}
	hasUplink := f.Uplink != nil
	if hasUplink {
		n.Uplink = s.uplink(key+".uplink", *f.Uplink)
	}
	n.Addresses = s.prefixes(key+".addresses", f.Addresses)
	for i, text := range f.Routes {
		route, err := parseRoute(text, hasUplink)
		if err != nil {
			s.bad(fmt.Sprintf("%s.routes[%d]", key, i), "%q: %w", text, err)
		}
		n.Routes = append(n.Routes, route)
	}
	n.LoDown = f.Lo != nil && !*f.Lo
	if n.LoDown && !hasUplink && len(n.Addresses) > 0 {
		s.bad(key+".addresses", "without an uplink they are set on lo, which lo = false leaves down")
	}
	n.NoMPTCP = f.MPTCP != nil && !*f.MPTCP
	if f.ResolvConf != nil {
		n.ResolvConf = *f.ResolvConf
		if !strings.Contains(n.ResolvConf, "\n") && !cleanAbs(n.ResolvConf) {
			s.bad(key+".resolv_conf", "%q is neither the absolute path of a file nor a text with a newline", n.ResolvConf)
		}
	}
	s.sysctl(key+".sysctl", f.Sysctl, &n)
	return n
}

// existing reads the keys that name a namespace made by others. It returns
// the key that does, empty if none is there.
func (s *source) existing(key string, f fileStack, n *stacknode.NetnsSpec) string {
	var given []string
	if f.Netns != nil {
		given = append(given, "netns")
		n.Name = *f.Netns
		if n.Name == "" || n.Name == "." || n.Name == ".." || strings.ContainsAny(n.Name, "/\x00") {
			s.bad(key+".netns", "%q is no name of a namespace (path takes a file)", n.Name)
		}
	}
	if f.PID != nil {
		given = append(given, "pid")
		if *f.PID < 1 || *f.PID > math.MaxInt32 {
			s.bad(key+".pid", "%d is no process id", *f.PID)
		} else {
			n.PID = int(*f.PID)
		}
	}
	if f.Path != nil {
		given = append(given, "path")
		n.Path = *f.Path
		if !cleanAbs(n.Path) {
			s.bad(key+".path", "%q is not an absolute path", n.Path)
		}
	}
	if len(given) > 1 {
		s.bad(key+"."+given[1], "conflicts with %s: a stack is one namespace", given[0])
	}
	if len(given) == 0 {
		return ""
	}
	return given[0]
}

// sysctl checks the names of kernel settings. Only those below net belong
// to a network namespace; anything else would be the host's.
func (s *source) sysctl(key string, f sysctls, n *stacknode.NetnsSpec) {
	paths := map[string]string{}
	if n.NoMPTCP {
		paths["net/mptcp/enabled"] = "mptcp = false"
	}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		at := key + "." + name
		if s.index[at] == 0 {
			at = joinKey(key, name)
		}
		path, ok := sysctlPath(name)
		switch {
		case !ok:
			s.bad(at, "is no setting of a network namespace (net.ipv4.ip_forward is one)")
		case strings.ContainsAny(f[name], "\n\x00"):
			s.bad(at, "has a value of more than one line")
		case paths[path] != "":
			s.bad(at, "is set already, by %s", paths[path])
		}
		paths[path] = name
	}
	if len(f) > 0 {
		n.Sysctl = f
	}
}

// sysctlPath returns the path below /proc/sys of a name in either notation
// of sysctl(8): the first separator says whether dots or slashes separate,
// and the other one then stands for a dot in the name of a link.
func sysctlPath(name string) (path string, ok bool) {
	path = name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	words := strings.Split(path, "/")
	for _, w := range words {
		if w == "" || w == "." || w == ".." || strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return "", false
		}
	}
	return path, len(words) > 2 && words[0] == "net"
}

// prefixes reads addresses with their prefix lengths.
func (s *source) prefixes(key string, list []string) []netip.Prefix {
	var out []netip.Prefix
	for i, text := range list {
		p, err := parseAddress(text)
		if err != nil {
			s.bad(fmt.Sprintf("%s[%d]", key, i), "%w", err)
		}
		if slices.Contains(out, p) && err == nil {
			s.bad(fmt.Sprintf("%s[%d]", key, i), "%s is there twice", p)
		}
		out = append(out, p)
	}
	return out
}

// parseAddress reads an address of an interface: "10.9.0.2/24".
func parseAddress(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		if a, aerr := netip.ParseAddr(text); aerr == nil && a.Zone() == "" {
			return p, fmt.Errorf("%q has no prefix length (%s/%d for this address alone)", text, a, a.BitLen())
		}
		return p, fmt.Errorf("%q is no address with a prefix length as 10.9.0.2/24", text)
	}
	if a := p.Addr(); a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
		return p, fmt.Errorf("%s cannot be the address of an interface", a)
	}
	return p, nil
}

func cleanAbs(path string) bool {
	return filepath.IsAbs(path) && !strings.Contains(path, "\x00")
}
