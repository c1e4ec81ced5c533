package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// sendTimeout is what the calibration sets as SO_SNDTIMEO, in seconds, to
// learn what a second is in the kernel's own unit.
const sendTimeout = 1000

// selfTest calibrates the program and proves it: with connections in a
// network namespace of their own, in different states and families, it
// compares the snapshots with the bytes that were sent and with what soccr
// reads in repair mode.
func (s *Snapshotter) selfTest() error {
	s.pass.Lock()
	defer s.pass.Unlock()
	return inNewNetns(func() error {
		if err := loopbackUp(); err != nil {
			return err
		}
		var cases testCases
		defer cases.Close()
		if err := cases.prepare(); err != nil {
			return err
		}
		if err := s.learnOptions(cases[0].end.fd); err != nil {
			return err
		}
		here := NetNS{Do: func(fn func() error) error { return fn() }}
		if err := s.calibrate(here, cases[0]); err != nil {
			return fmt.Errorf("calibrate: %w", err)
		}
		return s.compare(here, cases)
	})
}

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

// learnOptions finds out which options this kernel has.
func (s *Snapshotter) learnOptions(fd int) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_DOMAIN", err)
	}
	c := soccr.Conn{Family: family}
	if err := soccr.ReadOptions(fd, &c); err != nil {
		return err
	}
	s.known = nil
	for _, o := range soccr.OptionNames() {
		// TCP_MAXSEG as the owner set it cannot be read.
		if _, ok := c.Options[o.Name]; ok || o.Name == "TCP_MAXSEG" {
			s.known = append(s.known, o)
		}
	}
	return nil
}

// calibrate lets the program find the bytes that a socket sent in memory,
// and learns the length of the kernel's jiffy.
func (s *Snapshotter) calibrate(ns NetNS, c testCase) error {
	timeout := unix.Timeval{Sec: sendTimeout}
	if err := unix.SetsockoptTimeval(c.end.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		return os.NewSyscallError("setsockopt SO_SNDTIMEO", err)
	}
	_, known := s.arena.block(0)
	copy(known, c.send)
	s.control.Calibrate = 1
	slots, err := s.onePass(ns, []uint64{c.end.cookie})
	s.control.Calibrate = 0
	if err != nil {
		return err
	}
	if s.control.PageSize != 64 {
		return fmt.Errorf("struct page has %d bytes, not 64: %w", s.control.PageSize, errors.ErrUnsupported)
	}
	if err := slots[0].failure(); err != nil {
		return err
	}
	if s.hz = slots[0].Sndtimeo / sendTimeout; s.hz < 10 || s.hz > 100_000 {
		return fmt.Errorf("a second has %d jiffies: %w", s.hz, ErrQueue)
	}
	return nil
}

// compare takes snapshots of all and then looks at the same sockets in
// repair mode. A timer may have changed one in between, so it tries again.
func (s *Snapshotter) compare(ns NetNS, cases testCases) (err error) {
	for range 3 {
		if err = s.compareOnce(ns, cases); err == nil {
			return nil
		}
	}
	return err
}

func (s *Snapshotter) compareOnce(ns NetNS, cases testCases) error {
	results := make(map[uint64]*shared)
	for _, c := range cases {
		results[c.end.cookie] = &shared{}
	}
	if err := s.takeAll(ns, results); err != nil {
		return err
	}
	for _, c := range cases {
		if err := c.check(results[c.end.cookie].Result); err != nil {
			return fmt.Errorf("a connection in state %v: %w", c.state, err)
		}
	}
	return nil
}

// check compares a snapshot with what is known.
func (c testCase) check(r Result) error {
	if r.Err != nil {
		return r.Err
	}
	got := r.Conn
	switch {
	case got.State != c.state:
		return fmt.Errorf("a snapshot in state %v", got.State)
	case !bytes.Equal(got.Recv, c.recv):
		return fmt.Errorf("receive queue: other bytes than were sent, %d of %d", len(got.Recv), len(c.recv))
	case !bytes.Equal(got.Send, c.send):
		return fmt.Errorf("send queue: other bytes than were sent, %d of %d", len(got.Send), len(c.send))
	}
	want, err := saveInRepairMode(c.end.fd)
	if err != nil {
		return fmt.Errorf("repair mode: %w", err)
	}
	return differs(got, want)
}

// saveInRepairMode saves one of our own sockets.
func saveInRepairMode(fd int) (*soccr.Conn, error) {
	sock, err := soccr.Pause(fd)
	if err != nil {
		return nil, err
	}
	c, err := sock.Conn()
	return c, errors.Join(err, sock.Resume())
}

// differs tells in what a snapshot differs from what repair mode shows of a
// socket that did not change in between.
func differs(got, want *soccr.Conn) error {
	// Time goes by, and timers change what Info shows.
	data := got.Data
	data.Timestamp = want.Timestamp
	if data != want.Data {
		return fmt.Errorf("numbers: %+v, in repair mode %+v", data, want.Data)
	}
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"family", got.Family, want.Family},
		{"local address", got.Local, want.Local},
		{"remote address", got.Remote, want.Remote},
		{"shutdown", got.Shutdown, want.Shutdown},
		{"congestion control", got.Congestion, want.Congestion},
		{"device", got.Device, want.Device},
		{"cookie", got.Meta.Cookie, want.Meta.Cookie},
		{"inode", got.Meta.Inode, want.Meta.Inode},
		{"owner", got.Meta.UID, want.Meta.UID},
		{"namespace", got.Meta.NetNS, want.Meta.NetNS},
	} {
		if f.got != f.want {
			return fmt.Errorf("%s: %v, in repair mode %v", f.name, f.got, f.want)
		}
	}
	return differInOptions(got.Options, want.Options)
}

// differInOptions leaves out what only one of the two can tell: the value of
// an option that was not set, and TCP_MAXSEG.
func differInOptions(got, want soccr.Options) error {
	for _, o := range soccr.OptionNames() {
		g, set := got[o.Name]
		w, there := want[o.Name]
		if !set && o.Flags&soccr.FlagDefault != 0 || o.Name == "TCP_MAXSEG" {
			continue
		}
		if g != w || set != there {
			return fmt.Errorf("%s: %d, in repair mode %d", o.Name, g, w)
		}
	}
	return nil
}
