package soccr

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// addresses returns those of a TCP socket; remote is invalid where there is
// none.
func addresses(fd int) (local, remote netip.AddrPort, err error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return local, remote, os.NewSyscallError("getsockname", err)
	}
	if local, err = addrPort(fd, sa); err != nil {
		return local, remote, err
	}
	// getpeername(2) answers ENOTCONN in SYN_SENT and CLOSE; SO_PEERNAME
	// tells the address as long as the socket has it.
	family := unix.AF_INET
	if _, ok := sa.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	raw, err := getPeername(fd, family)
	if err == unix.ENOTCONN {
		return local, remote, nil
	}
	if err != nil {
		return local, remote, os.NewSyscallError("getsockopt SO_PEERNAME", err)
	}
	remote, err = addrPort(fd, raw)
	return local, remote, err
}

// addrPort converts an address that the kernel gave. Interfaces are those
// of the socket's namespace, which need not be the caller's.
func addrPort(fd int, sa unix.Sockaddr) (netip.AddrPort, error) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			zone, err := ifName(fd, sa.ZoneId)
			if err != nil {
				return netip.AddrPort{}, err
			}
			ip = ip.WithZone(zone)
		}
		return netip.AddrPortFrom(ip, uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("address of type %T: %w", sa, unix.EAFNOSUPPORT)
}

// sockaddr is the inverse of addrPort.
func sockaddr(fd int, a netip.AddrPort) (unix.Sockaddr, error) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
	}
	sa := &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	if zone := a.Addr().Zone(); zone != "" {
		var err error
		if sa.ZoneId, err = ifIndex(fd, zone); err != nil {
			return nil, err
		}
	}
	return sa, nil
}

// ifName returns the name of an interface in the socket's namespace.
func ifName(fd int, index uint32) (string, error) {
	ifr, err := unix.NewIfreq("")
	if err == nil {
		ifr.SetUint32(index)
		err = unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr)
	}
	if err != nil {
		return "", fmt.Errorf("ioctl SIOCGIFNAME %d: %w", index, err)
	}
	return ifr.Name(), nil
}

// ifIndex is the inverse of ifName.
func ifIndex(fd int, name string) (uint32, error) {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
	}
	if err != nil {
		return 0, fmt.Errorf("ioctl SIOCGIFINDEX %q: %w", name, err)
	}
	return ifr.Uint32(), nil
}
