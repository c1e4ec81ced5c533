package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// uplinkDone tells whether the link is there. One that is, and was not
// written down, is somebody else's. One of ours gets what may have changed
// on the host since.
func uplinkDone(sp *space, st, prev *step) (bool, error) {
	l, err := sp.link(st.Uplink.Name)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a := l.Attrs()
	if prev == nil || l.Type() != st.Uplink.Type || prev.Found.Index != 0 && prev.Found.Index != a.Index {
		return false, fmt.Errorf("the namespace has a link %s that is not stackfs' (set uplink.name): %w", a.Name, unix.EEXIST)
	}
	st.Found.Index = a.Index
	if st.Uplink.Type != "veth" {
		return true, failed(st, setUp(sp, st))
	}
	h, err := sp.outside()
	if err != nil {
		return false, err
	}
	host, err := h.LinkByIndex(a.ParentIndex)
	if err != nil {
		return false, fmt.Errorf("the end of %s on the host: %w", a.Name, err)
	}
	st.Found.HostName, st.Found.HostIndex = host.Attrs().Name, host.Attrs().Index
	if err = setUp(sp, st); err == nil {
		err = finishVeth(sp, st, host)
	}
	return true, failed(st, err)
}

func uplinkMake(sp *space, st *step) error {
	h, err := sp.outside()
	if err != nil {
		return err
	}
	if st.Uplink.Type == "macvlan" {
		err = makeMacvlan(sp, h, st)
	} else {
		err = makeVeth(sp, h, st)
	}
	return failed(st, err)
}

func makeMacvlan(sp *space, h *netlink.Handle, st *step) error {
	u := &st.Uplink
	parent, err := linkByName(h, u.Parent, "on the host")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = u.Name, u.MTU, hwAddr(u.MAC)
	attrs.ParentIndex = parent.Attrs().Index
	attrs.Namespace = netlink.NsFd(sp.ns.Fd())
	err = h.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("not possible on %s, or the kernel has no macvlan (veth with a bridge does the same): %w", u.Parent, err)
	}
	if err != nil {
		return fmt.Errorf("make on %s: %w", u.Parent, err)
	}
	if err := setUp(sp, st); err != nil {
		return errors.Join(err, uplinkUndo(sp, st))
	}
	return nil
}

func makeVeth(sp *space, h *netlink.Handle, st *step) error {
	u := &st.Uplink
	if _, err := bridge(h, u.Bridge); err != nil {
		return err
	}
	var veth *netlink.Veth
	var err error
	for _, name := range strings.Fields(u.Peers) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, u.MTU
		veth = netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = u.Name, uint32(u.MTU), hwAddr(u.MAC)
		veth.PeerNamespace = netlink.NsFd(sp.ns.Fd())
		if err = h.LinkAdd(veth); !errors.Is(err, unix.EEXIST) {
			break
		}
		err = fmt.Errorf("the host has a link %s already (set uplink.peer): %w", name, err)
	}
	if err != nil {
		return err
	}
	st.Found.HostName, st.Found.HostIndex = veth.Name, veth.Index
	if err = setUp(sp, st); err == nil {
		err = finishVeth(sp, st, veth)
	}
	if err != nil {
		return errors.Join(err, h.LinkDel(veth)) // takes the other end along
	}
	return nil
}

// finishVeth connects the end on the host, the other one is up.
func finishVeth(sp *space, st *step, host netlink.Link) error {
	h, err := sp.outside()
	if err != nil {
		return err
	}
	if st.Uplink.Bridge != "" {
		br, err := bridge(h, st.Uplink.Bridge)
		if err != nil {
			return err
		}
		if err := h.LinkSetMaster(host, br); err != nil {
			return fmt.Errorf("make %s a port of bridge %s: %w", host.Attrs().Name, st.Uplink.Bridge, err)
		}
	}
	if err := h.LinkSetUp(host); err != nil {
		return fmt.Errorf("bring %s up: %w", host.Attrs().Name, err)
	}
	for _, s := range strings.Fields(st.Uplink.PeerAddrs) {
		p := netip.MustParsePrefix(s)
		if has, err := hasAddr(h, host, p); err != nil || has {
			if err != nil {
				return err
			}
			continue
		}
		if err := addAddr(h, host, p); err != nil {
			return fmt.Errorf("address %v on %s: %w", p, host.Attrs().Name, err)
		}
	}
	// The end that came up first has its queue, which drops until then, when
	// the kernel's link watch has seen the other one.
	inside, err := sp.inside()
	if err != nil {
		return err
	}
	settled(func() bool {
		return running(h, st.Found.HostIndex) && running(inside, st.Found.Index)
	})
	return nil
}

func running(h *netlink.Handle, index int) bool {
	l, err := h.LinkByIndex(index)
	return err == nil && l.Attrs().OperState == netlink.OperUp
}

// setUp brings the end in the namespace up.
func setUp(sp *space, st *step) error {
	h, l, err := sp.handleAndLink(st.Uplink.Name)
	if err != nil {
		return err
	}
	st.Found.Index = l.Attrs().Index
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}

// uplinkUndo deletes the link from within the namespace, or from the host
// when that cannot be reached; one end of a veth takes the other along.
func uplinkUndo(sp *space, st *step) error {
	if sp.do != nil {
		h, l, err := sp.handleAndLink(st.Uplink.Name)
		if err == nil && l.Type() == st.Uplink.Type && (st.Found.Index == 0 || st.Found.Index == l.Attrs().Index) {
			err = h.LinkDel(l)
		}
		return unless(err, unix.ENODEV)
	}
	if st.Found.HostIndex == 0 {
		return nil
	}
	h, err := sp.outside()
	if err != nil {
		return err
	}
	l, err := h.LinkByIndex(st.Found.HostIndex)
	if err == nil && l.Type() == "veth" && l.Attrs().Name == st.Found.HostName {
		err = h.LinkDel(l)
	}
	if notFound(err) {
		return nil
	}
	return err
}

// bridge returns the bridge of that name on the host, nil for an empty one.
func bridge(h *netlink.Handle, name string) (netlink.Link, error) {
	if name == "" {
		return nil, nil
	}
	l, err := h.LinkByName(name)
	switch {
	case notFound(err):
		return nil, fmt.Errorf("no bridge %s on the host (create it: ip link add %s type bridge): %w", name, name, unix.ENODEV)
	case err != nil:
		return nil, fmt.Errorf("look up bridge %s: %w", name, err)
	case l.Type() != "bridge":
		return nil, fmt.Errorf("uplink.bridge: %s is a %s, not a bridge: %w", name, l.Type(), unix.EINVAL)
	}
	return l, nil
}
