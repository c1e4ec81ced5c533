package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// connFlags are the flags that choose connections.
type connFlags struct {
	states             []string
	local, remote      string
	port, sport, dport uint16
	v4, v6             bool
	user               string
	pid                int
}

func (f *connFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.SortFlags = false
	flags.StringArrayVar(&f.states, "state", nil, "in one of these `STATES`, by the names of ss(8)")
	flags.StringVar(&f.local, "local", "", "with this local `ADDRESS[:PORT]` or prefix")
	flags.StringVar(&f.remote, "remote", "", "with this remote `ADDRESS[:PORT]` or prefix")
	flags.Uint16Var(&f.port, "port", 0, "with this `PORT` on either side")
	flags.Uint16Var(&f.sport, "sport", 0, "with this local `PORT`")
	flags.Uint16Var(&f.dport, "dport", 0, "with this remote `PORT`")
	flags.BoolVarP(&f.v4, "ipv4", "4", false, "sockets of IPv4")
	flags.BoolVarP(&f.v6, "ipv6", "6", false, "sockets of IPv6")
	flags.StringVar(&f.user, "user", "", "that belong to this `USER`, a name or a number")
	flags.IntVar(&f.pid, "pid", 0, "that the process `PID` holds")
	_ = c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(stateNames(), cobra.ShellCompDirectiveNoFileComp))
}

// filter makes the filter of the flags of c; states is what there is without
// --state.
func (f *connFlags) filter(e env, c *cobra.Command, states stateSet) (*connFilter, error) {
	filter := &connFilter{states: states, port: f.port, sport: f.sport, dport: f.dport, v4: f.v4, v6: f.v6}
	var err error
	if len(f.states) > 0 {
		if filter.states, err = parseStates(f.states); err != nil {
			return nil, usage(c, fmt.Errorf("--state: %w", err))
		}
	}
	for _, side := range []struct {
		flag, text string
		to         *addrFilter
	}{{"local", f.local, &filter.local}, {"remote", f.remote, &filter.remote}} {
		if !c.Flags().Changed(side.flag) {
			continue
		}
		if *side.to, err = parseAddrFilter(side.text); err != nil {
			return nil, usage(c, fmt.Errorf("--%s: %w", side.flag, err))
		}
	}
	for _, flag := range []string{"port", "sport", "dport"} {
		if c.Flags().Changed(flag) && c.Flags().Lookup(flag).Value.String() == "0" {
			return nil, usage(c, fmt.Errorf("--%s: 0 is no port", flag))
		}
	}
	if c.Flags().Changed("user") {
		uid, err := accountID(account(f.user), e.users.UID)
		if err != nil {
			return nil, usage(c, fmt.Errorf("--user: %w", err))
		}
		filter.uid = strconv.FormatUint(uint64(uid), 10)
	}
	if c.Flags().Changed("pid") {
		if f.pid < 1 {
			return nil, usage(c, fmt.Errorf("--pid: %d is no process id", f.pid))
		}
		if filter.inodes, err = socketInodes(e.proc, f.pid); err != nil {
			return nil, err
		}
	}
	return filter, nil
}

// A connFilter says which connections are wanted: all that fit every field
// that is set.
type connFilter struct {
	states             stateSet
	local, remote      addrFilter
	port, sport, dport uint16 // 0: any
	v4, v6             bool
	uid                string          // empty: any
	inodes             map[string]bool // nil: any
}

// match tells whether the filter lets r through.
func (f *connFilter) match(r *connRow) bool {
	switch {
	case f.states != stAll && f.states&stateOf(r.State) == 0,
		f.v4 != f.v6 && f.v4 != (r.Family == "inet"),
		f.uid != "" && f.uid != r.UID,
		f.inodes != nil && !f.inodes[r.Inode],
		f.sport != 0 && portOf(r.Local) != f.sport,
		f.dport != 0 && portOf(r.Remote) != f.dport,
		f.port != 0 && portOf(r.Local) != f.port && portOf(r.Remote) != f.port:
		return false
	}
	return f.local.match(r.Local) && f.remote.match(r.Remote)
}

// apply returns the rows that match, in the memory of rows.
func (f *connFilter) apply(rows []connRow) []connRow {
	kept := rows[:0]
	for i := range rows {
		if f.match(&rows[i]) {
			kept = append(kept, rows[i])
		}
	}
	return kept
}

// An addrFilter is an address or a prefix, a port, or both.
type addrFilter struct {
	prefix netip.Prefix // invalid: any address
	port   uint16       // 0: any
}

// parseAddrFilter reads what ss(8) takes as an address: ADDRESS, PREFIX, both
// with :PORT after them, or that alone. An IPv6 address that a port follows
// is in brackets. Zones are ignored.
func parseAddrFilter(text string) (addrFilter, error) {
	var f addrFilter
	host, port := text, ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 && (!strings.Contains(text[:i], ":") || strings.Contains(text[:i], "]")) {
		host, port = text[:i], text[i+1:]
		n, err := strconv.ParseUint(port, 10, 16)
		if port != "*" && (err != nil || n == 0) {
			return f, fmt.Errorf("%q: %q is no port", text, port)
		}
		f.port = uint16(n)
	}
	if host == "" && text == "" {
		return f, fmt.Errorf("is empty, want an address, a prefix or a port (:80)")
	}
	host = strings.NewReplacer("[", "", "]", "").Replace(host)
	if host == "" || host == "*" {
		return f, nil
	}
	if p, err := netip.ParsePrefix(host); err == nil {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		f.prefix = p.Masked()
		return f, nil
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return f, fmt.Errorf("%q is no address, prefix or :port (192.0.2.1, 192.0.2.0/24:80, [2001:db8::1]:80)", text)
	}
	a = a.Unmap().WithZone("")
	f.prefix = netip.PrefixFrom(a, a.BitLen())
	return f, nil
}

// match tells whether an address of a connection fits. That of a v4-mapped
// one is an IPv4 address.
func (f addrFilter) match(text string) bool {
	if f.port != 0 && portOf(text) != f.port {
		return false
	}
	if !f.prefix.IsValid() {
		return true
	}
	a, err := netip.ParseAddrPort(text)
	return err == nil && f.prefix.Contains(a.Addr().Unmap().WithZone(""))
}

// portOf returns the number after the last colon, 0 if there is none.
func portOf(address string) uint16 {
	n := uint16(0)
	for _, c := range []byte(address[strings.LastIndexByte(address, ':')+1:]) {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + uint16(c-'0')
	}
	return n
}
