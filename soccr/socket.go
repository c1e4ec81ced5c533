package soccr

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// A Queue is one of the two queues of a connection, with the kernel's
// numbers (TCP_REPAIR_QUEUE).
type Queue int

const (
	noQueue   Queue = 0
	RecvQueue Queue = 1 // what the owner did not read yet
	SendQueue Queue = 2 // what the peer did not acknowledge yet
)

// Values of TCP_REPAIR.
const (
	repairOn      = 1
	repairOff     = 0  // with a window probe, in ESTABLISHED
	repairOffNoWP = -1 // without; since 4.19
)

// A Socket is a TCP socket in repair mode. It borrows the descriptor that
// [Pause] was given: that must stay open until Resume, Release or Discard
// was called. A Socket is for one goroutine at a time.
type Socket struct {
	fd       int
	family   int
	reuse    int64 // SO_REUSEADDR of the owner
	own      bool  // a restore attached its filter
	restored bool  // Resume ends a restore
	kick     bool  // what was restored has unsent bytes
	nodelay  bool

	local, remote netip.AddrPort
	recv, send    []byte
	buf           []byte
}

// Pause puts a TCP socket into repair mode: nothing leaves it any more, not
// even when it is closed, and its queues can be looked at. The owner must
// not use it meanwhile: a read fails with EPERM, a write with EINVAL or goes
// into a queue unsent. See the steps in the package's documentation.
//
// It needs CAP_NET_ADMIN over the user namespace that owns the socket's
// network namespace, else the error is EPERM. It returns ErrRepair if the
// socket is in repair mode already, and an [*UnsaveableError] for listeners
// and for MPTCP.
func Pause(fd int) (*Socket, error) {
	s := &Socket{fd: fd}
	var err error
	if s.family, err = tcpFamily(fd); err != nil {
		return nil, err
	}
	info, err := readInfo(fd)
	if err != nil {
		return nil, err
	}
	if info.state == Listen {
		return nil, errListener
	}
	switch on, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR); {
	case err != nil:
		return nil, os.NewSyscallError("getsockopt TCP_REPAIR", err)
	case on != 0:
		return nil, ErrRepair
	}
	if s.local, s.remote, err = addresses(fd); err != nil {
		return nil, err
	}
	reuse, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt SO_REUSEADDR", err)
	}
	s.reuse = int64(reuse)
	if err := setRepair(fd, repairOn); err != nil {
		return nil, err
	}
	return s, nil
}

// Resume ends repair mode and puts back SO_REUSEADDR, which repair mode
// clears. The connection goes on as if nothing had been, without a packet.
// After [Socket.Restore] it starts the connection instead: a window probe
// wakes the peer.
func (s *Socket) Resume() error {
	off := repairOffNoWP
	if s.restored {
		off = repairOff
	}
	if err := s.unfilter(); err != nil {
		return err
	}
	if err := setRepair(s.fd, off); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, int(s.reuse)); err != nil {
		return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
	}
	if s.kick {
		return s.push()
	}
	return nil
}

// unfilter takes away the filter of a restore.
func (s *Socket) unfilter() error {
	if !s.own {
		return nil
	}
	s.own = false
	return detachFilter(s.fd)
}

// push sends what is unsent, which otherwise waits for the peer or a timer.
// Setting TCP_NODELAY does so as a side effect.
func (s *Socket) push() error {
	err := unix.SetsockoptInt(s.fd, unix.SOL_TCP, unix.TCP_NODELAY, 1)
	if err == nil && !s.nodelay {
		err = unix.SetsockoptInt(s.fd, unix.SOL_TCP, unix.TCP_NODELAY, 0)
	}
	return os.NewSyscallError("setsockopt TCP_NODELAY", err)
}

// Release lets go of the socket and leaves it in repair mode. When its last
// descriptor is closed then, the peer sees nothing.
func (s *Socket) Release() { s.recv, s.send, s.buf = nil, nil, nil }

// Discard ends the connection without a packet to the peer, which goes on
// believing in it: for a connection that was saved and lives on elsewhere.
// What the queues hold is gone and the addresses are free at once. Its
// owner, who keeps a socket without a connection, is woken and finds
// ECONNABORTED; a read that sleeps in the kernel is answered EPIPE (since
// 6.6), unless its thread is stopped meanwhile and then calls again.
//
// In 6.4 and 6.5 it fails with EBUSY while a thread sleeps in a call on
// the socket. After an error the socket is still in repair mode.
func (s *Socket) Discard() error {
	if err := disconnect(s.fd); err != nil {
		return os.NewSyscallError("connect to AF_UNSPEC", err)
	}
	s.restored, s.kick = false, false
	return s.Resume()
}

// Local returns the address of this end.
func (s *Socket) Local() netip.AddrPort { return s.local }

// Remote returns the address of the peer, invalid where the socket has none.
func (s *Socket) Remote() netip.AddrPort { return s.remote }

// SetAddr sets the addresses for [Socket.Restore].
func (s *Socket) SetAddr(local, remote netip.AddrPort) { s.local, s.remote = local, remote }

// QueueBytes returns the bytes of a queue that [Socket.Save] found. They
// belong to the caller, unless they are in a buffer of the caller's already
// (see UseBuffer).
func (s *Socket) QueueBytes(q Queue) []byte {
	if q == RecvQueue {
		return s.recv
	}
	return s.send
}

// SetQueueBytes sets the bytes of a queue for [Socket.Restore], which only
// reads them.
func (s *Socket) SetQueueBytes(q Queue, b []byte) {
	if q == RecvQueue {
		s.recv = b
	} else {
		s.send = b
	}
}

// UseBuffer gives Save a buffer for the bytes of both queues, so that it
// need not touch fresh memory while the owner waits; they are valid until
// it is used again. Save allocates where the buffer is too small: it takes
// the length of both queues and 2 more bytes.
func (s *Socket) UseBuffer(b []byte) { s.buf = b[:0] }

var errListener = &UnsaveableError{Reason: "a listener is not a connection"}

// tcpFamily returns the address family of a TCP socket.
func tcpFamily(fd int) (int, error) {
	proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt SO_PROTOCOL", err)
	}
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case err != nil:
		return 0, os.NewSyscallError("getsockopt SO_DOMAIN", err)
	case proto == unix.IPPROTO_MPTCP:
		return 0, &UnsaveableError{Reason: "MPTCP"}
	case proto != unix.IPPROTO_TCP || family != unix.AF_INET && family != unix.AF_INET6:
		return 0, fmt.Errorf("not a TCP socket: %w", unix.EPROTONOSUPPORT)
	}
	return family, nil
}

// setRepair turns repair mode on or off. Turning it on deselects the queue.
func setRepair(fd, mode int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, mode)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("repair mode needs CAP_NET_ADMIN over the network namespace of the socket: %w", err)
	}
	return os.NewSyscallError("setsockopt TCP_REPAIR", err)
}

func selectQueue(fd int, q Queue) error {
	return os.NewSyscallError("setsockopt TCP_REPAIR_QUEUE", unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, int(q)))
}
