package msocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// backlog is more than any kernel takes: it uses the limit of the stack
// (net.core.somaxconn).
const backlog = 1<<16 - 1

// Listen listens for TCP connections on address in this stack. An empty
// host, or the wildcard of "tcp", is every address of both families. The
// listener is a *net.TCPListener.
func (s Stack) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	f, err := s.bound(ctx, network, address, unix.SOCK_STREAM)
	if err == nil {
		defer f.Close()
		err = borrow(f, func(fd int) error { return os.NewSyscallError("listen", unix.Listen(fd, backlog)) })
	}
	if err == nil {
		l, err = net.FileListener(f)
	}
	if err != nil {
		return nil, listenError(s.Path, network, address, err)
	}
	return l, nil
}

// ListenPacket listens for UDP datagrams on address in this stack. The
// connection is a *net.UDPConn.
func (s Stack) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var c net.PacketConn
	f, err := s.bound(ctx, network, address, unix.SOCK_DGRAM)
	if err == nil {
		defer f.Close()
		c, err = net.FilePacketConn(f)
	}
	if err != nil {
		return nil, listenError(s.Path, network, address, err)
	}
	return c, nil
}

func listenError(path, network, address string, err error) error {
	return &OpError{Op: "listen", Stack: path, Err: fmt.Errorf("%s %s: %w", network, address, err)}
}

// bound makes a socket of the type typ that is bound to address.
func (s Stack) bound(ctx context.Context, name, address string, typ int) (*os.File, error) {
	n, err := parseNetwork(name)
	if err == nil && n.typ != typ {
		err = net.UnknownNetworkError(name)
	}
	if err != nil {
		return nil, err
	}
	host, port, err := n.split(ctx, address)
	if err != nil {
		return nil, err
	}
	st, err := findStack(s.Path)
	if err != nil {
		return nil, err
	}
	addr, err := s.local(ctx, n, host)
	if err != nil {
		return nil, err
	}
	both := n.v4 && n.v6 && addr.IsUnspecified()
	if both {
		addr = netip.IPv6Unspecified()
	}
	f, err := bindSocket(ctx, st, n, addr, port, both)
	if both && errors.Is(err, unix.EAFNOSUPPORT) {
		f, err = bindSocket(ctx, st, n, netip.IPv4Unspecified(), port, false)
	}
	return f, err
}

// local returns the address to bind to: of a name that has several, the
// first of IPv4, as package net has it.
func (s Stack) local(ctx context.Context, n network, host string) (netip.Addr, error) {
	if host == "" {
		if n.v6 {
			return netip.IPv6Unspecified(), nil
		}
		return netip.IPv4Unspecified(), nil
	}
	addrs, err := s.resolve(ctx, n, host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if a.Is4() {
			return a, nil
		}
	}
	return addrs[0], nil
}

func bindSocket(ctx context.Context, st *stack, n network, addr netip.Addr, port uint16, both bool) (f *os.File, err error) {
	f, err = st.socketContext(ctx, ask{family(addr), n.typ | unix.SOCK_NONBLOCK, 0})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			f = nil
		}
	}()
	if addr.Is6() {
		only := 1
		if both {
			only = 0
		}
		if err = setOption(f, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return f, err
		}
	}
	opt := unix.SO_REUSEADDR
	if n.typ == unix.SOCK_DGRAM {
		opt = unix.SO_BROADCAST
	}
	if err = setOption(f, unix.SOL_SOCKET, opt, 1); err != nil {
		return f, err
	}
	sa, err := sockaddr(f, addr, port)
	if err != nil {
		return f, err
	}
	err = borrow(f, func(fd int) error { return os.NewSyscallError("bind", unix.Bind(fd, sa)) })
	return f, err
}
