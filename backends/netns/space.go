package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A space is what steps work on: a namespace and the host, that is the
// daemon's own namespace. Its netlink sockets are made when they are needed
// and last until Close.
type space struct {
	ns *os.File                 // borrowed
	do func(func() error) error // runs a function in the namespace; nil: it is gone

	in, out *netlink.Handle
}

// inside returns the handle of the namespace.
func (s *space) inside() (*netlink.Handle, error) {
	if s.in != nil {
		return s.in, nil
	}
	// The socket is made by a thread that is in the namespace. NewHandleAt
	// would move one there and back, and not notice if it cannot get back.
	err := s.do(func() (err error) {
		s.in, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netlink in the namespace: %w", err)
	}
	return s.in, nil
}

// outside returns the handle of the host.
func (s *space) outside() (*netlink.Handle, error) {
	if s.out != nil {
		return s.out, nil
	}
	var err error
	if s.out, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return s.out, nil
}

// Close closes the netlink sockets.
func (s *space) Close() {
	for _, h := range []*netlink.Handle{s.in, s.out} {
		if h != nil {
			h.Close()
		}
	}
	s.in, s.out = nil, nil
}

// link returns the link of that name in the namespace. Returns ENODEV if
// there is none.
func (s *space) link(name string) (netlink.Link, error) {
	h, err := s.inside()
	if err != nil {
		return nil, err
	}
	return linkByName(h, name, "in the namespace")
}

func linkByName(h *netlink.Handle, name, where string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if notFound(err) {
		return nil, fmt.Errorf("no link %s %s: %w", name, where, unix.ENODEV)
	}
	if err != nil {
		return nil, fmt.Errorf("look up link %s %s: %w", name, where, err)
	}
	return l, nil
}

func notFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
