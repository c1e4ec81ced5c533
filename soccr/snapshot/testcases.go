package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// A testCase is one end of a connection, and what is known about it.
type testCase struct {
	end        *end
	state      soccr.State
	recv, send []byte
}

type testCases []testCase

// Close ends the connections.
func (cases *testCases) Close() {
	for _, c := range *cases {
		c.end.Close()
	}
}

// prepare makes the connections. Close is needed also after an error.
func (cases *testCases) prepare() error {
	stream := make([]byte, 512<<10)
	fillStream(stream)
	v4 := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	family, loopback, mapped := unix.AF_INET6, netip.IPv6Loopback(), netip.AddrFrom16(v4.As16())
	if fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
		unix.Close(fd)
	} else { // without IPv6
		family, loopback, mapped = unix.AF_INET, v4, v4
	}
	for _, add := range []func() (testCases, error){
		func() (testCases, error) { return bothQueues(family, loopback, stream) },
		func() (testCases, error) { return halfClosed(family, mapped, stream) },
		func() (testCases, error) { return closing(unix.AF_INET, v4, stream) },
	} {
		more, err := add()
		*cases = append(*cases, more...)
		if err != nil {
			return err
		}
	}
	return nil
}

// bothQueues makes a connection whose server has unread bytes, the first of
// which it has read, bytes in flight and bytes that were not sent. It comes
// first.
func bothQueues(family int, addr netip.Addr, stream []byte) (testCases, error) {
	p, err := newPair(family, addr)
	if err != nil {
		return nil, err
	}
	server := testCase{end: p.server, state: soccr.Established}
	client := testCase{end: p.client, state: soccr.Established}
	err = func() error {
		const in, read = 40 << 10, 1000 // less than the smallest window
		if _, err := p.client.send(stream[:in]); err != nil {
			return err
		}
		if err := p.server.await(in); err != nil {
			return err
		}
		if n, err := unix.Read(p.server.fd, make([]byte, read)); n != read {
			return fmt.Errorf("read %d bytes: %w", n, err)
		}
		if err := p.client.deafen(); err != nil {
			return err
		}
		out, err := p.server.send(stream)
		if err != nil {
			return err
		}
		// The acknowledgement of the last bytes may have come too late.
		late, err := unix.IoctlGetInt(p.client.fd, unix.SIOCOUTQ)
		if err != nil {
			return os.NewSyscallError("ioctl SIOCOUTQ", err)
		}
		server.recv, server.send, client.send = stream[read:in], stream[:out], stream[in-late:in]
		return nil
	}()
	return testCases{server, client}, err
}

// halfClosed makes a connection whose client has ended it.
func halfClosed(family int, addr netip.Addr, stream []byte) (testCases, error) {
	p, err := newPair(family, addr)
	if err != nil {
		return nil, err
	}
	const n = 3000
	server := testCase{end: p.server, state: soccr.CloseWait, recv: stream[:n]}
	client := testCase{end: p.client, state: soccr.FinWait2}
	if _, err = p.client.send(stream[:n]); err == nil {
		if err = unix.Shutdown(p.client.fd, unix.SHUT_WR); err == nil {
			err = errors.Join(p.server.awaitState(server.state), p.client.awaitState(client.state))
		}
	}
	return testCases{server, client}, err
}

// closing makes one whose client has ended it, but its server does not know.
func closing(family int, addr netip.Addr, stream []byte) (testCases, error) {
	p, err := newPair(family, addr)
	if err != nil {
		return nil, err
	}
	server := testCase{end: p.server, state: soccr.Established}
	client := testCase{end: p.client, state: soccr.FinWait1}
	if err = p.server.deafen(); err == nil {
		var n int
		n, err = p.client.send(stream)
		client.send = stream[:n]
	}
	if err == nil {
		err = os.NewSyscallError("shutdown", unix.Shutdown(p.client.fd, unix.SHUT_WR))
	}
	return testCases{server, client}, err
}

// fillStream makes bytes each eight of which tell where in a stream they are.
func fillStream(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.NativeEndian.PutUint64(b[i:], mix(uint64(i)))
	}
}

// mix is the finalizer of splitmix64: a bijection without structure.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
