package soccr

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// enterNetNS puts the test's goroutine into a new network namespace with lo
// up, for good: its thread ends with it, and the namespace with its sockets.
func enterNetNS(t testing.TB) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare: %v", err)
	}
	setUp(t, "lo")
}

// A netNS is a network namespace that lives as long as the test.
type netNS struct{ fd int }

// newNetNS makes a namespace with lo up.
func newNetNS(t testing.TB) netNS {
	t.Helper()
	needRoot(t)
	var ns netNS
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
	t.Cleanup(func() { unix.Close(ns.fd) })
	ns.do(t, func() { setUp(t, "lo") })
	return ns
}

// do runs fn on the calling goroutine inside the namespace.
func (ns netNS) do(t testing.TB, fn func()) {
	t.Helper()
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(home)
	if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			t.Errorf("setns back: %v", err) // and stay locked
			return
		}
		runtime.UnlockOSThread()
	}()
	fn()
}

// sysctl sets a value of the calling thread's namespace.
func sysctl(t testing.TB, name, value string) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
}

func setUp(t testing.TB, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatalf("link %s up: %v", name, err)
	}
}

// addresses of the two ends of a veth pair.
var (
	aAddrs = []string{"192.0.2.1/24", "2001:db8::1/64", "fe80::a/64"}
	bAddrs = []string{"192.0.2.2/24", "2001:db8::2/64", "fe80::b/64"}
)

// vethPair makes a veth pair va (in a) to vb (in b), with addresses. Both
// ends have fixed hardware addresses, so that a moved end is known at once.
func vethPair(t testing.TB, a, b netNS) {
	t.Helper()
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }
	a.do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = "va", mac(1)
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "vb", PeerHardwareAddr: mac(2),
			PeerNamespace: netlink.NsFd(b.fd)})
		if err != nil {
			t.Fatalf("veth: %v", err)
		}
		addAddrs(t, "va", aAddrs)
	})
	b.do(t, func() { addAddrs(t, "vb", bAddrs); waitReady(t, "vb", bAddrs) })
	a.do(t, func() { waitReady(t, "va", aAddrs) })
}

// waitReady waits until a link is connected and the stack answers for its
// addresses.
func waitReady(t testing.TB, name string, prefixes []string) {
	t.Helper()
	eventually(t, "carrier of "+name, func() bool {
		link, err := netlink.LinkByName(name)
		check(t, err)
		return link.Attrs().OperState == netlink.OperUp
	})
	for _, p := range prefixes {
		a := netip.MustParsePrefix(p).Addr()
		if a.IsLinkLocalUnicast() {
			continue
		}
		eventually(t, "route to "+p, func() bool {
			ok, err := isLocal(a, 0)
			check(t, err)
			return ok
		})
	}
}

// moveVeth moves the end va, with its addresses, to another namespace, and
// does not wait for anything.
func moveVeth(t testing.TB, from, to netNS) {
	t.Helper()
	from.do(t, func() {
		link, err := netlink.LinkByName("va")
		if err == nil {
			err = netlink.LinkSetNsFd(link, to.fd)
		}
		if err != nil {
			t.Fatalf("move va: %v", err)
		}
	})
	to.do(t, func() { addAddrs(t, "va", aAddrs) })
}

func addAddrs(t testing.TB, name string, addrs []string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range addrs {
		addr, err := netlink.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Fatalf("address %s on %s: %v", s, name, err)
		}
	}
	setUp(t, name)
}
