package netns

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loAddress is set on lo by the kernel when it comes up, and stays when it
// goes down.
var loAddress = netip.MustParsePrefix("127.0.0.1/8")

func upDone(sp *space, st, _ *step) (up bool, err error) {
	if !st.Forget {
		h, l, err := sp.handleAndLink(st.Link)
		if err != nil {
			return false, err
		}
		if has, err := hasAddr(h, l, loAddress); err != nil {
			return false, err
		} else if has {
			st.Found.Old = loAddress.String()
		}
	}
	err = linkFlags(sp, st.Link, func(flags uint16) uint16 {
		up = flags&unix.IFF_UP != 0
		return flags
	})
	return up, failed(st, err)
}

func upMake(sp *space, st *step) error {
	return failed(st, linkFlags(sp, st.Link, func(flags uint16) uint16 { return flags | unix.IFF_UP }))
}

func upUndo(sp *space, st *step) error {
	err := linkFlags(sp, st.Link, func(flags uint16) uint16 { return flags &^ unix.IFF_UP })
	if err == nil && !st.Forget && st.Found.Old == "" {
		var h *netlink.Handle
		var l netlink.Link
		if h, l, err = sp.handleAndLink(st.Link); err == nil {
			err = h.AddrDel(l, &netlink.Addr{IPNet: ipNet(loAddress)})
		}
	}
	return unless(err, unix.ENODEV, unix.EADDRNOTAVAIL)
}

// linkFlags changes the flags of a link to what change returns. The ioctl
// is all that a plain namespace needs, and unlike a netlink socket its
// socket is gone at once: one that was closed still counts in sockstat for
// a while, and mkdir and rmdir would have to wait for that.
func linkFlags(sp *space, name string, change func(uint16) uint16) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return sp.do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return fmt.Errorf("flags of %s: %w", name, err)
		}
		flags := ifr.Uint16()
		want := change(flags)
		if want == flags {
			return nil
		}
		ifr.SetUint16(want)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
			return fmt.Errorf("set flags of %s: %w", name, err)
		}
		return nil
	})
}
