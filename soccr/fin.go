package soccr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The state of a connection whose peer sent a FIN, or acknowledged ours,
// can be reached only by receiving that packet. A restore sends it itself,
// from the peer's address to our own, with a raw socket of the same stack.
// It is routed as any packet to an address of this stack is, over lo, and
// enters the stack with that route: no check of its source (rp_filter,
// martians) is made. It carries Mark.

// A forger sends packets in the name of the peer.
type forger struct {
	fd       int
	from, to netip.AddrPort
	dst      unix.Sockaddr
}

// newForger opens the raw socket, in the network namespace of the TCP
// socket fd. It needs CAP_NET_RAW.
func newForger(fd int, c *Conn) (*forger, error) {
	f := &forger{
		fd:   -1,
		from: netip.AddrPortFrom(c.Remote.Addr().Unmap(), c.Remote.Port()),
		to:   netip.AddrPortFrom(c.Local.Addr().Unmap(), c.Local.Port()),
	}
	var err error
	if f.dst, err = sockaddr(fd, netip.AddrPortFrom(f.to.Addr(), 0)); err != nil {
		return nil, err
	}
	family := unix.AF_INET
	if f.to.Addr().Is6() {
		family = unix.AF_INET6
	}
	index := uint32(0)
	if zone := f.to.Addr().Zone(); zone != "" {
		if index, err = ifIndex(fd, zone); err != nil {
			return nil, err
		}
	}
	err = inNetNSOf(fd, func() error {
		awaitLocal(f.to.Addr(), index)
		// IPPROTO_RAW: the packets bring their IP header, raw(7).
		f.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("a raw socket, to repeat the peer's FIN, needs CAP_NET_RAW: %w", err)
	}
	if err != nil {
		return nil, os.NewSyscallError("socket SOCK_RAW", err)
	}
	if err := unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_MARK, Mark); err != nil {
		f.close()
		return nil, os.NewSyscallError("setsockopt SO_MARK", err)
	}
	// A socket that is bound to a device takes packets of that device only.
	if c.Device != "" {
		if err := unix.BindToDevice(f.fd, c.Device); err != nil {
			f.close()
			return nil, fmt.Errorf("setsockopt SO_BINDTODEVICE to %q: %w", c.Device, err)
		}
	}
	return f, nil
}

func (f *forger) close() { unix.Close(f.fd) }

// Flags of a TCP header.
const (
	flagFIN = 0x01
	flagACK = 0x10
)

// send forges one packet without data and waits until the socket fd is in
// the state to which it leads, sending it again now and then as a peer
// would: mostly it is there at once. It gives up well before the socket
// would begin to send by itself, see [Restore].
func (f *forger) send(fd int, seq, ack uint32, flags byte, want State) error {
	packet := segment(f.from, f.to, seq, ack, flags)
	var state State
	wait := 100 * time.Microsecond
	for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); wait = min(2*wait, 50*time.Millisecond) {
		if err := retryEINTR(func() error { return unix.Sendto(f.fd, packet, 0, f.dst) }); err != nil {
			return os.NewSyscallError("send in the name of the peer", err)
		}
		info, err := readInfo(fd)
		if err != nil {
			return err
		}
		if state = info.state; state == want {
			return nil
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("a packet in the name of the peer did not arrive (state %v, want %v), let mark %#x pass netfilter and set lo up: %w",
		state, want, Mark, unix.ETIMEDOUT)
}

// segment is a TCP packet with its IP header and no data. Its window is 0,
// so that it sets nothing in motion, its TTL the largest, for sockets with
// IP_MINTTL.
func segment(from, to netip.AddrPort, seq, ack uint32, flags byte) []byte {
	const size = 20 // of a TCP header
	be := binary.BigEndian
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	var b []byte
	if from.Addr().Is4() {
		b = make([]byte, 20+size) // the kernel fills in its checksum and identification
		b[0] = 0x45
		be.PutUint16(b[2:], uint16(len(b)))
		b[8], b[9] = 255, unix.IPPROTO_TCP
		copy(b[12:], src)
		copy(b[16:], dst)
	} else {
		b = make([]byte, 40+size)
		b[0] = 0x60
		be.PutUint16(b[4:], size)
		b[6], b[7] = unix.IPPROTO_TCP, 255
		copy(b[8:], src)
		copy(b[24:], dst)
	}
	t := b[len(b)-size:]
	be.PutUint16(t, from.Port())
	be.PutUint16(t[2:], to.Port())
	be.PutUint32(t[4:], seq)
	be.PutUint32(t[8:], ack)
	t[12], t[13] = size/4<<4, flags
	be.PutUint16(t[16:], ^sum(size+unix.IPPROTO_TCP, src, dst, t))
	return b
}

// sum is the sum of the Internet checksum (RFC 1071), all parts being of
// even length. start is that of the rest of the pseudo header.
func sum(start uint32, parts ...[]byte) uint16 {
	for _, p := range parts {
		for i := 0; i < len(p); i += 2 {
			start += uint32(binary.BigEndian.Uint16(p[i:]))
		}
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}
