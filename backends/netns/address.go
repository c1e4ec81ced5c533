package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

func addrDone(sp *space, st, _ *step) (bool, error) {
	h, l, err := sp.handleAndLink(st.Link)
	if err != nil {
		return false, failed(st, err)
	}
	return hasAddr(h, l, st.Prefix)
}

func addrMake(sp *space, st *step) error {
	h, l, err := sp.handleAndLink(st.Link)
	if err == nil {
		err = addAddr(h, l, st.Prefix)
	}
	return failed(st, err)
}

func addrUndo(sp *space, st *step) error {
	h, l, err := sp.handleAndLink(st.Link)
	if err == nil {
		err = h.AddrDel(l, &netlink.Addr{IPNet: ipNet(st.Prefix)})
	}
	return unless(err, unix.ENODEV, unix.EADDRNOTAVAIL)
}

func hasAddr(h *netlink.Handle, l netlink.Link, p netip.Prefix) (bool, error) {
	list, err := h.AddrList(l, family(p.Addr()))
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range list {
		if a.IPNet != nil && a.IPNet.String() == ipNet(p).String() {
			return true, nil
		}
	}
	return false, nil
}

// addAddr sets an address that is good to bind to and to be reached at when
// addAddr returns: for IPv6 without the second or two of duplicate address
// detection, but the kernel adds its route a little later, on a work queue.
func addAddr(h *netlink.Handle, l netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := h.AddrAdd(l, a); err != nil || p.Addr().Is4() {
		return err
	}
	settled(func() bool {
		r, err := h.RouteGet(p.Addr().AsSlice())
		return err == nil && len(r) > 0 && r[0].Type == unix.RTN_LOCAL
	})
	return nil
}

// settled waits for what the kernel does a little later, at most a second:
// it may have its reasons.
func settled(ok func() bool) {
	pause := 100 * time.Microsecond
	for end := time.Now().Add(time.Second); !ok() && time.Now().Before(end); pause *= 2 {
		time.Sleep(min(pause, 20*time.Millisecond))
	}
}

func routeDone(sp *space, st, _ *step) (bool, error) {
	h, err := sp.inside()
	if err != nil {
		return false, err
	}
	want, err := sp.route(st.Route)
	if err != nil {
		return false, failed(st, err)
	}
	list, err := h.RouteListFiltered(family(st.Route.To.Addr()), &netlink.Route{Dst: want.Dst}, netlink.RT_FILTER_DST)
	if err != nil {
		return false, fmt.Errorf("list routes to %v: %w", st.Route.To, err)
	}
	for _, r := range list {
		if r.Gw.Equal(want.Gw) && (want.LinkIndex == 0 || want.LinkIndex == r.LinkIndex) {
			return true, nil
		}
	}
	return false, nil
}

func routeMake(sp *space, st *step) error {
	h, err := sp.inside()
	if err != nil {
		return err
	}
	r, err := sp.route(st.Route)
	if err == nil {
		err = h.RouteAdd(r)
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%v: the namespace has another route to there: %w", st, err)
	}
	return failed(st, err)
}

func routeUndo(sp *space, st *step) error {
	h, err := sp.inside()
	if err != nil {
		return err
	}
	r, err := sp.route(st.Route)
	if err == nil {
		err = h.RouteDel(r)
	}
	return unless(err, unix.ENODEV, unix.ESRCH)
}

// route returns r as netlink has it.
func (s *space) route(r stacknode.Route) (*netlink.Route, error) {
	nr := &netlink.Route{Dst: ipNet(r.To), Protocol: unix.RTPROT_STATIC}
	if r.Via.IsValid() {
		nr.Gw = r.Via.AsSlice()
	} else if r.To.Addr().Is4() {
		nr.Scope = netlink.SCOPE_LINK
	}
	if r.Dev != "" {
		l, err := s.link(r.Dev)
		if err != nil {
			return nil, err
		}
		nr.LinkIndex = l.Attrs().Index
	}
	return nr, nil
}

func (s *space) handleAndLink(name string) (*netlink.Handle, netlink.Link, error) {
	h, err := s.inside()
	if err != nil {
		return nil, nil, err
	}
	l, err := s.link(name)
	return h, l, err
}

// failed puts the name of the step before its error.
func failed(st *step, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%v: %w", st, err)
}

// unless returns err, or nil if it is one of those that mean: gone already.
func unless(err error, gone ...error) error {
	for _, g := range gone {
		if errors.Is(err, g) {
			return nil
		}
	}
	return err
}
