package msocket

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Resolver returns a resolver whose queries go through this stack: to the
// name servers of PATH/etc/resolv.conf if the stack has that file, else to
// those of /etc/resolv.conf. Names in /etc/hosts are found there first, as
// with every resolver of package net, and search domains and options are
// those of /etc/resolv.conf; [Stack.DialContext] takes these from the stack.
func (s Stack) Resolver() *net.Resolver {
	r := &nameServers{stack: s}
	return &net.Resolver{PreferGo: true, Dial: r.dial}
}

// A resolvConf is what is used of a resolv.conf(5).
type resolvConf struct {
	servers []string
	search  []string
	ndots   int
}

// stackFile reads a file that a stack has in place of one in /etc. Returns
// nil if it has none.
func (s Stack) stackFile(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(s.Path, "etc", name))
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, nodeError(err)
	case b == nil:
		b = []byte{}
	}
	return b, nil
}

func (s Stack) resolvConf() (*resolvConf, error) {
	b, err := s.stackFile("resolv.conf")
	if b == nil || err != nil {
		return nil, err
	}
	return parseResolvConf(b), nil
}

func parseResolvConf(b []byte) *resolvConf {
	conf := &resolvConf{ndots: 1}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < 2 || f[0][0] == '#' || f[0][0] == ';' {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(conf.servers) < 3 {
				conf.servers = append(conf.servers, net.JoinHostPort(a.String(), "53"))
			}
		case "domain":
			conf.search = f[1:2]
		case "search":
			conf.search = f[1:]
		case "options":
			for _, o := range f[1:] {
				if n, err := strconv.Atoi(strings.TrimPrefix(o, "ndots:")); err == nil && n >= 0 {
					conf.ndots = min(n, 15)
				}
			}
		}
	}
	if len(conf.servers) == 0 { // as resolv.conf(5) says
		conf.servers = []string{"127.0.0.1:53"}
	}
	return conf
}

// candidates are the names to ask for, for the name that the user gave.
func (c *resolvConf) candidates(name string) []string {
	if c == nil || strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var list []string
	for _, domain := range c.search {
		list = append(list, name+"."+strings.TrimSuffix(domain, ".")+".")
	}
	if strings.Count(name, ".") >= c.ndots {
		return append([]string{name + "."}, list...)
	}
	return append(list, name+".")
}

// lookup returns the addresses of a name in the stack.
func (s Stack) lookup(ctx context.Context, n network, host string) ([]netip.Addr, error) {
	hosts, err := s.stackFile("hosts")
	if err != nil {
		return nil, err
	}
	if addrs := parseHosts(hosts, host); len(addrs) > 0 {
		return addrs, nil
	}
	conf, err := s.resolvConf()
	if err != nil {
		return nil, err
	}
	resolver := s.Resolver()
	var failed error
	for _, name := range conf.candidates(host) {
		addrs, err := resolver.LookupNetIP(ctx, n.ip(), name)
		if err == nil {
			for i := range addrs {
				addrs[i] = addrs[i].Unmap()
			}
			return addrs, nil
		}
		if failed == nil {
			failed = err
		}
		var dns *net.DNSError
		if !errors.As(err, &dns) || !dns.IsNotFound {
			break
		}
	}
	return nil, failed
}

// parseHosts returns the addresses that a hosts(5) file has for host.
func parseHosts(b []byte, host string) (addrs []netip.Addr) {
	host = strings.TrimSuffix(host, ".")
	for line := range bytes.Lines(b) {
		text, _, _ := strings.Cut(string(line), "#")
		f := strings.Fields(text)
		if len(f) < 2 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, name := range f[1:] {
			if strings.EqualFold(strings.TrimSuffix(name, "."), host) {
				addrs = append(addrs, a.Unmap())
				break
			}
		}
	}
	return addrs
}

// nameServers dials the servers of a stack where a net.Resolver means to
// dial those of the system.
type nameServers struct {
	stack Stack

	mu      sync.Mutex // guards current
	current int        // index of the server that answered last
}

func (r *nameServers) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conf, err := r.stack.resolvConf()
	if err != nil {
		return nil, &OpError{Op: "dial", Stack: r.stack.Path, Err: err}
	}
	if conf == nil {
		return r.stack.DialContext(ctx, network, address)
	}
	r.mu.Lock()
	i := r.current % len(conf.servers)
	r.mu.Unlock()
	failed := func() { r.next(i, len(conf.servers)) }
	c, err := r.stack.DialContext(ctx, network, conf.servers[i])
	if err != nil {
		failed()
		return nil, err
	}
	if u, ok := c.(*net.UDPConn); ok {
		return &dnsConn{u, failed}, nil
	}
	return c, nil
}

// next goes on to the server after i, unless another query did.
func (r *nameServers) next(i, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current%n == i {
		r.current = (i + 1) % n
	}
}

// A dnsConn tells when its server does not answer. It is a net.PacketConn,
// by which net.Resolver knows how to speak.
type dnsConn struct {
	*net.UDPConn
	failed func()
}

func (c *dnsConn) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	if err != nil {
		c.failed()
	}
	return n, err
}
