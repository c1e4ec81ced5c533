package image

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/stackfs/stackfs/soccr"
)

// Select returns the one connection of a dump between the two addresses. One
// that is the zero value is any, a port that is 0 is any port; IPv4 addresses
// and those of v4-mapped connections are the same, and an interface counts
// only if it is given. Returns ErrNoMatch or ErrAmbiguous, which say what
// there is, or what is wrong with the connection.
func Select(list []Dumped, local, remote netip.AddrPort) (*Dumped, error) {
	var found []*Dumped
	for i := range list {
		d := &list[i]
		if d.Local.IsValid() && matches(local, d.Local) && matches(remote, d.Remote) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 1 && found[0].Err != nil:
		return nil, found[0].Err
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, problemf(ErrAmbiguous, "%d connections of the dump fit: %s", len(found), describe(found))
	case len(list) == 0:
		return nil, problemf(ErrNoMatch, "the dump has no TCP connection")
	}
	all := make([]*Dumped, len(list))
	for i := range list {
		all[i] = &list[i]
	}
	return nil, problemf(ErrNoMatch, "the dump has no such connection, but %s", describe(all))
}

// describe names the first of some connections.
func describe(list []*Dumped) string {
	const most = 8
	var names []string
	for _, d := range list[:min(len(list), most)] {
		if !d.Local.IsValid() {
			names = append(names, d.File)
			continue
		}
		names = append(names, fmt.Sprintf("%s-%s", d.Local, d.Remote))
	}
	if more := len(list) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

func matches(want, have netip.AddrPort) bool {
	if ip := want.Addr(); ip.IsValid() {
		with := have.Addr()
		if ip.Zone() == "" {
			with = with.WithZone("")
		}
		if ip.Unmap() != with.Unmap() {
			return false
		}
	}
	return want.Port() == 0 || want.Port() == have.Port()
}

// Accepts tells whether criu restore can make the socket of d from an image
// of c that is copied over d.File: CRIU takes from files.img what the two
// must have in common. Returns ErrInvalid.
func (d *Dumped) Accepts(c *soccr.Conn) error {
	if d.Err != nil {
		return d.Err
	}
	return d.accepts(d.Conn, c)
}

func (d *Dumped) accepts(socket, c *soccr.Conn) error {
	switch {
	case c.Family != socket.Family:
		return invalidf("files.img has the address family %d for the inode %d, the image has %d", socket.Family, d.Inode, c.Family)
	case !sameEnd(c.Local, d.Local) || !sameEnd(c.Remote, d.Remote):
		return invalidf("files.img has %s-%s for the inode %d, the image has %s-%s", d.Local, d.Remote, d.Inode, c.Local, c.Remote)
	case c.State != socket.State:
		return invalidf("files.img has the state %s for the inode %d, the image has %s", socket.State, d.Inode, c.State)
	case c.Shutdown != socket.Shutdown:
		return invalidf("files.img has shutdown %d for the inode %d, the image has %d", socket.Shutdown, d.Inode, c.Shutdown)
	}
	return nil
}

// sameEnd compares without interfaces: CRIU does not keep that of the peer.
func sameEnd(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().WithZone("") == b.Addr().WithZone("")
}
