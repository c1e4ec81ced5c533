package snapshot

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// A pair is a connection of our own over loopback, with both its ends.
type pair struct {
	client, server *end
}

// An end is a socket of a pair. It is closed with a reset, so that nothing
// of the connection stays.
type end struct {
	fd     int
	cookie uint64
}

// pairPatience is how long a call on a pair may take. Over loopback it takes
// microseconds.
const pairPatience = 5 * time.Second

// newPair connects two sockets of a family over an address of this host.
// They are non-blocking.
func newPair(family int, addr netip.Addr) (*pair, error) {
	listener, to, err := listen(family, addr)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	client, err := dial(family, to)
	if err != nil {
		return nil, err
	}
	server, err := listener.accept()
	if err == nil {
		err = client.wait(unix.POLLOUT)
	}
	p := &pair{client, server}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// listen returns a listener and its address.
func listen(family int, addr netip.Addr) (*end, unix.Sockaddr, error) {
	l, err := newEnd(unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
	if err != nil {
		return nil, nil, fmt.Errorf("socket: %w", err)
	}
	if err = unix.Bind(l.fd, sockaddr(family, addr)); err != nil {
		err = fmt.Errorf("bind to %v: %w", addr, err)
	} else {
		err = os.NewSyscallError("listen", unix.Listen(l.fd, 1))
	}
	to, nerr := unix.Getsockname(l.fd)
	if err = errors.Join(err, nerr); err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, to, nil
}

// dial begins to connect.
func dial(family int, to unix.Sockaddr) (*end, error) {
	e, err := newEnd(unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(e.fd, to); err != nil && err != unix.EINPROGRESS {
		e.Close()
		return nil, os.NewSyscallError("connect", err)
	}
	return e, nil
}

// accept waits for a connection.
func (e *end) accept() (*end, error) {
	if err := e.wait(unix.POLLIN); err != nil {
		return nil, err
	}
	fd, _, err := unix.Accept4(e.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("accept", err)
	}
	return newEnd(fd, nil)
}

func sockaddr(family int, addr netip.Addr) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Addr: addr.As16()}
}

// newEnd takes over a socket.
func newEnd(fd int, err error) (*end, error) {
	if err != nil {
		return nil, err
	}
	e := &end{fd: fd}
	err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err == nil {
		e.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return e, nil
}

func (p *pair) Close() {
	for _, e := range []*end{p.client, p.server} {
		if e != nil {
			e.Close()
		}
	}
}

func (e *end) Close() error { return unix.Close(e.fd) }

// wait waits for an event of poll(2).
func (e *end) wait(event int16) error {
	p := []unix.PollFd{{Fd: int32(e.fd), Events: event}}
	for end := time.Now().Add(pairPatience); time.Now().Before(end); {
		switch n, err := unix.Poll(p, int(pairPatience/time.Millisecond)); {
		case err != nil && err != unix.EINTR:
			return os.NewSyscallError("poll", err)
		case n > 0:
			return nil
		}
	}
	return fmt.Errorf("poll: %w", unix.ETIMEDOUT)
}

// send writes as much as the socket takes at once.
func (e *end) send(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Write(e.fd, b[n:])
		if err == unix.EAGAIN {
			return n, nil
		}
		if err != nil {
			return n, os.NewSyscallError("write", err)
		}
		n += m
	}
	return n, nil
}

// await waits until that many bytes have arrived and can be read.
func (e *end) await(n int) error {
	return until(func() (bool, error) {
		got, err := unix.IoctlGetInt(e.fd, unix.SIOCINQ)
		return got >= n, os.NewSyscallError("ioctl SIOCINQ", err)
	})
}

// awaitState waits until the socket is in a state.
func (e *end) awaitState(state soccr.State) error {
	return until(func() (bool, error) {
		info, err := unix.GetsockoptTCPInfo(e.fd, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			return false, os.NewSyscallError("getsockopt TCP_INFO", err)
		}
		return info.State == uint8(state), nil
	})
}

func until(done func() (bool, error)) error {
	for end := time.Now().Add(pairPatience); time.Now().Before(end); {
		if ok, err := done(); ok || err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("a connection over loopback: %w", unix.ETIMEDOUT)
}

// deafen drops all packets that arrive from now on: what the other end sends
// is not acknowledged.
func (e *end) deafen() error {
	ret := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	err := unix.SetsockoptSockFprog(e.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &ret})
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
}
