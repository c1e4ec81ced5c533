package msocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// fallbackDelay is how long addresses of the preferred family are tried
// alone: RFC 6555, as in package net.
const fallbackDelay = 300 * time.Millisecond

// DialContext connects to address in this stack; it fits
// [net/http.Transport.DialContext]. A host name is looked up in the stack
// ([Stack.Resolver]) and its addresses are tried as package net does. The
// connection is a *net.TCPConn or *net.UDPConn.
func (s Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	conn, err := s.dial(ctx, network, address)
	if err != nil {
		return nil, &OpError{Op: "dial", Stack: s.Path, Err: fmt.Errorf("%s %s: %w", network, address, err)}
	}
	return conn, nil
}

func (s Stack) dial(ctx context.Context, name, address string) (net.Conn, error) {
	n, err := parseNetwork(name)
	if err != nil {
		return nil, err
	}
	host, port, err := n.split(ctx, address)
	if err != nil {
		return nil, err
	}
	if host == "" { // as package net: the system itself
		host = "127.0.0.1"
		if !n.v4 {
			host = "::1"
		}
	}
	st, err := findStack(s.Path)
	if err != nil {
		return nil, err
	}
	addrs, err := s.resolve(ctx, n, host)
	if err != nil {
		return nil, err
	}
	d := dialer{st, n, port}
	first, others := partition(addrs)
	if len(others) == 0 || n.typ != unix.SOCK_STREAM {
		return d.serial(ctx, addrs)
	}
	return d.race(ctx, first, others)
}

// partition splits addrs by the family of the first one.
func partition(addrs []netip.Addr) (first, others []netip.Addr) {
	for _, a := range addrs {
		if a.Is4() == addrs[0].Is4() {
			first = append(first, a)
		} else {
			others = append(others, a)
		}
	}
	return first, others
}

// A dialer connects to one port.
type dialer struct {
	stack *stack
	network
	port uint16
}

// race tries first and, a moment later or when that has failed, others; the
// loser is closed.
func (d dialer) race(ctx context.Context, first, others []netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, 2)
	try := func(addrs []netip.Addr) {
		conn, err := d.serial(ctx, addrs)
		results <- result{conn, err}
	}
	go try(first)
	running := 1
	delay := time.NewTimer(fallbackDelay)
	defer delay.Stop()
	startOthers := func() {
		if others != nil {
			go try(others)
			others = nil
			running++
		}
	}
	var failed error
	for running > 0 {
		select {
		case <-delay.C:
			startOthers()
		case r := <-results:
			running--
			if r.err == nil {
				cancel()
				go func(left int) {
					for range left {
						if r := <-results; r.conn != nil {
							r.conn.Close()
						}
					}
				}(running)
				return r.conn, nil
			}
			if failed == nil {
				failed = r.err
			}
			startOthers()
		}
	}
	return nil, failed
}

// serial tries one address after the other, each for its share of the time.
func (d dialer) serial(ctx context.Context, addrs []netip.Addr) (net.Conn, error) {
	var failed error
	for i, a := range addrs {
		share, cancel := shareOf(ctx, len(addrs)-i)
		conn, err := d.one(share, a)
		cancel()
		if err == nil {
			return conn, nil
		}
		if failed == nil {
			failed = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// shareOf gives the first of n the time that is left by n, but two seconds
// at least.
func shareOf(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || n == 1 {
		return context.WithCancel(ctx)
	}
	left := time.Until(deadline)
	return context.WithTimeout(ctx, max(left/time.Duration(n), min(left, 2*time.Second)))
}

func (d dialer) one(ctx context.Context, a netip.Addr) (net.Conn, error) {
	f, err := d.stack.socketContext(ctx, ask{family(a), d.typ | unix.SOCK_NONBLOCK, 0})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if d.typ == unix.SOCK_DGRAM {
		if err := setOption(f, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
			return nil, err
		}
	}
	sa, err := sockaddr(f, a, d.port)
	if err != nil {
		return nil, err
	}
	if err := connect(ctx, f, sa); err != nil {
		return nil, fmt.Errorf("%s: %w", netip.AddrPortFrom(a, d.port), err)
	}
	return net.FileConn(f)
}

func setOption(f *os.File, level, opt, value int) error {
	return borrow(f, func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, opt, value))
	})
}

// connect is connect(2) that ends with ctx. f is non-blocking.
func connect(ctx context.Context, f *os.File, sa unix.Sockaddr) error {
	err := borrow(f, func(fd int) error { return unix.Connect(fd, sa) })
	switch {
	case err == nil, errors.Is(err, unix.EISCONN):
		return nil
	case !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EALREADY) && !errors.Is(err, unix.EINTR):
		return os.NewSyscallError("connect", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	// The end of ctx wakes the wait below.
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var cerr error
	werr := raw.Write(func(fd uintptr) (done bool) {
		done, cerr = connected(int(fd))
		return done
	})
	if werr != nil {
		return contextError(ctx, werr)
	}
	return os.NewSyscallError("connect", cerr)
}

// connected tells whether a connect has come to an end, and to which.
func connected(fd int) (done bool, err error) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if n != 0 {
		return true, unix.Errno(n)
	}
	// A wake-up without error may have been none about the connection.
	if _, err := unix.Getpeername(fd); err != nil {
		return false, nil
	}
	return true, nil
}
