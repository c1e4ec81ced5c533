package soccr

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// limit is how long a test waits for something that happens at once, or
// after a retransmission timeout.
const limit = 15 * time.Second

// A family is one of the three kinds of addresses.
type family struct {
	name   string
	domain int
	a, b   string // on a veth pair
	lo     string
}

var families = []family{
	{"inet", unix.AF_INET, "192.0.2.1", "192.0.2.2", "127.0.0.1"},
	{"inet6", unix.AF_INET6, "2001:db8::1", "2001:db8::2", "::1"},
	{"mapped", unix.AF_INET6, "::ffff:192.0.2.1", "::ffff:192.0.2.2", "::ffff:127.0.0.1"},
}

// A pair is a connection: a is the end that is saved, b its peer.
type pair struct {
	t    testing.TB
	a, b int

	// What was written and must arrive.
	toA, toB []byte
}

// open makes a TCP socket whose calls end.
func open(t testing.TB, domain int) int {
	t.Helper()
	fd := mustSocket(t, domain)
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
	return fd
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustSockaddr(t testing.TB, fd int, addr string, port uint16) unix.Sockaddr {
	t.Helper()
	sa, err := sockaddr(fd, netip.AddrPortFrom(netip.MustParseAddr(addr), port))
	check(t, err)
	return sa
}

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// listen returns a listener on the address and its port.
func listen(t testing.TB, domain int, addr string) (fd int, port uint16) {
	t.Helper()
	fd = open(t, domain)
	check(t, unix.Bind(fd, mustSockaddr(t, fd, addr, 0)))
	check(t, unix.Listen(fd, 8))
	local, _, err := addresses(fd)
	check(t, err)
	return fd, local.Port()
}

// connectPair connects a socket bound to aAddr with one accepted on bAddr.
// Each end is made by its do.
func connectPair(t testing.TB, f family, aAddr, bAddr string, doA, doB func(func())) *pair {
	t.Helper()
	p := &pair{t: t}
	var l int
	var port uint16
	doB(func() { l, port = listen(t, f.domain, bAddr) })
	doA(func() {
		p.a = open(t, f.domain)
		check(t, unix.Bind(p.a, mustSockaddr(t, p.a, aAddr, 0)))
		to := netip.MustParseAddr(bAddr)
		if to.Zone() != "" { // of the interface on the other side
			to = to.WithZone(netip.MustParseAddr(aAddr).Zone())
		}
		check(t, unix.Connect(p.a, mustSockaddr(t, p.a, to.String(), port)))
	})
	p.b = accept(t, l)
	return p
}

func accept(t testing.TB, l int) int {
	t.Helper()
	fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
	return fd
}

// here runs a function where it is.
func here(fn func()) { fn() }

// loPair is a connection over lo of the current namespace.
func loPair(t testing.TB, f family) *pair {
	t.Helper()
	return connectPair(t, f, f.lo, f.lo, here, here)
}

// random returns n bytes that differ from call to call.
func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// sendToA sends bytes from b to a, and waits until they are in a's queue.
func (p *pair) sendToA(n int) {
	p.t.Helper()
	b := random(n)
	p.toA = append(p.toA, b...)
	writeAll(p.t, p.b, b)
	// And are acknowledged, or b would be busy with sending them again.
	eventually(p.t, "bytes in a's queue", func() bool {
		return ioctl(p.t, p.a, unix.SIOCINQ) == len(p.toA) && ioctl(p.t, p.b, unix.SIOCOUTQ) == 0
	})
}

// sendToB writes from a to b without waiting for anything to arrive.
func (p *pair) sendToB(n int) {
	p.t.Helper()
	b := random(n)
	p.toB = append(p.toB, b...)
	writeAll(p.t, p.a, b)
}

func writeAll(t testing.TB, fd int, b []byte) {
	t.Helper()
	for len(b) > 0 {
		n, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("write: %v", err)
		}
		b = b[n:]
	}
}

// readAll reads len(want) bytes and compares them.
func readAll(t testing.TB, what string, fd int, want []byte) {
	t.Helper()
	got := make([]byte, 0, len(want))
	buf := make([]byte, 1<<20)
	for len(got) < len(want) {
		n, err := unix.Read(fd, buf[:min(len(buf), len(want)-len(got))])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("%s: after %d of %d bytes: read %d, %v", what, len(got), len(want), n, err)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: the bytes differ", what)
	}
}

// wantEOF reads the end of the stream.
func wantEOF(t testing.TB, what string, fd int) {
	t.Helper()
	var b [1]byte
	if n, err := unix.Read(fd, b[:]); n != 0 || err != nil {
		t.Fatalf("%s: read %d, %v, want the end", what, n, err)
	}
}

func ioctl(t testing.TB, fd int, req uint) int {
	t.Helper()
	n, err := unix.IoctlGetInt(fd, req)
	check(t, err)
	return n
}

func stateOf(t testing.TB, fd int) State {
	t.Helper()
	info, err := readInfo(fd)
	check(t, err)
	return info.state
}

func waitState(t testing.TB, fd int, want State) {
	t.Helper()
	eventually(t, fmt.Sprintf("state %v", want), func() bool { return stateOf(t, fd) == want })
}

// eventually polls until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s within %v", what, limit)
		}
	}
}

// deafen keeps all packets away from a socket until the returned call.
func deafen(t testing.TB, fd int) func() {
	t.Helper()
	check(t, attachFilter(fd, dropAll))
	return func() { t.Helper(); check(t, detachFilter(fd)) }
}

// reach takes end a to a state, with bytes in both queues where the state
// can have them: in flight and unsent. The returned call lets b hear again.
func (p *pair) reach(state State) (hear func()) {
	p.t.Helper()
	const inq, out = 50_000, 150_000 // more than b's first window
	check(p.t, unix.SetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20))
	// It has no pacing timer, which would mark bytes as sent during a save.
	check(p.t, unix.SetsockoptString(p.a, unix.SOL_TCP, unix.TCP_CONGESTION, "reno"))
	p.sendToA(inq)
	quiet := func() {}
	// a must see all acknowledgements of before, or what is in flight
	// would be more than what it sends from now on.
	fill := func() {
		p.t.Helper()
		quiet = deafen(p.t, p.b)
		p.sendToB(out)
		time.Sleep(30 * time.Millisecond) // until all that can leave has left
	}
	half := func(fd int) { p.t.Helper(); check(p.t, unix.Shutdown(fd, unix.SHUT_WR)) }
	switch state {
	case Established:
		fill()
	case FinWait1:
		fill()
		half(p.a)
	case FinWait2:
		half(p.a)
	case CloseWait:
		half(p.b)
		waitState(p.t, p.b, FinWait2)
		fill()
	case LastAck:
		half(p.b)
		waitState(p.t, p.b, FinWait2)
		fill()
		half(p.a)
	case Closing:
		fill()
		half(p.a)
		half(p.b)
	case Close:
		half(p.b)
		waitState(p.t, p.a, CloseWait)
		half(p.a)
	}
	waitState(p.t, p.a, state)
	return quiet
}

// finish exchanges the rest on end a, which may be a restored socket, and
// ends the connection the way its state allows.
func (p *pair) finish(a int, state State) {
	p.t.Helper()
	t := p.t
	readAll(t, "what a had not read", a, p.toA)
	if state != Close {
		readAll(t, "what b had not got", p.b, p.toB)
	}
	toB, toA := random(100_000), random(100_000)
	switch state { // a can send
	case Established, CloseWait:
		writeAll(t, a, toB)
		readAll(t, "new bytes to b", p.b, toB)
	}
	switch state { // b can send
	case Established, FinWait1, FinWait2:
		writeAll(t, p.b, toA)
		readAll(t, "new bytes to a", a, toA)
		check(t, unix.Shutdown(p.b, unix.SHUT_WR))
	}
	wantEOF(t, "a", a)
	switch state {
	case Established, CloseWait:
		check(t, unix.Shutdown(a, unix.SHUT_WR))
	}
	wantEOF(t, "b", p.b)
	waitState(t, a, Close)
}
