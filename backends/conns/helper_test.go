package conns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STACKFS_STRICT") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// newNetNS makes a network namespace with 192.0.2.1/24 and 2001:db8::1/64 on
// a link that leads nowhere, besides lo.
func newNetNS(t testing.TB) *os.File {
	t.Helper()
	requireRoot(t)
	var f *os.File
	err := onLostThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			if err = configure(); err == nil {
				f, err = os.Open("/proc/thread-self/ns/net")
			}
		}
		return err
	})
	if err != nil {
		t.Fatalf("network namespace: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// onLostThread runs fn on a thread that then ends. It is never the first
// one, which is the process to /proc.
func onLostThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onLostThread(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

func configure() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	// An address is then there at once.
	for _, which := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/accept_dad", []byte("0"), 0); err != nil {
			return err
		}
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}
	if err := errors.Join(h.LinkSetUp(lo), h.LinkAdd(veth), h.LinkSetUp(veth)); err != nil {
		return err
	}
	peer, err := h.LinkByName("v1")
	if err != nil {
		return err
	}
	errs := []error{h.LinkSetUp(peer)}
	for _, text := range []string{"192.0.2.1/24", "2001:db8::1/64", "fe80::7/64"} {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		errs = append(errs, h.AddrAdd(veth, addr))
	}
	// Or almost so.
	for range 500 {
		list, err := h.AddrList(veth, unix.AF_INET6)
		if err != nil || !slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 }) {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	return errors.Join(errs...)
}

func newWorker(t testing.TB, ns *os.File) *worker.Worker {
	t.Helper()
	w, err := worker.New(worker.Config{NetNS: ns, Families: stacknode.InternetFamilies, Env: worker.Env{Log: testLog(t)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct{ testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.Logf("%s", b)
	return len(b), nil
}

// newStack returns the connections of a namespace, saved as mode says.
func newStack(t testing.TB, w *worker.Worker, mode Mode) *Stack {
	t.Helper()
	log := testLog(t)
	e := NewEngine(mode, log, nil)
	t.Cleanup(func() { e.Close() })
	env := Env{Log: log, Engine: e, Seals: NewSeals(t.TempDir()), Holders: NewHolders(), Version: "test"}
	t.Cleanup(func() { env.Seals.Close() })
	s := New(Config{Stack: "lab", Worker: w, Env: env})
	t.Cleanup(func() { s.Close() })
	return s
}

// self is this program as a caller.
func self(t testing.TB) *stacknode.Caller {
	t.Helper()
	p, err := peer.Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c, err := p.Caller()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A pair is a connection with both ends, and what it was accepted from.
type pair struct{ listener, client, server int }

func sockaddr(a netip.AddrPort) (int, unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		if link, err := netlink.LinkByName(zone); err == nil {
			sa.ZoneId = uint32(link.Attrs().Index)
		}
	}
	return unix.AF_INET6, sa
}

// connect makes a connection to at, in the namespace of w.
func connect(t testing.TB, w *worker.Worker, at string) *pair {
	t.Helper()
	p := &pair{listener: listen(t, w, at), client: -1, server: -1}
	err := w.Do(func() error {
		family, sa := sockaddr(netip.MustParseAddrPort(at))
		var err error
		if p.client, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
			return err
		}
		if err := unix.Connect(p.client, sa); err != nil {
			return err
		}
		// It may have come to another listener of that address.
		limit := unix.Timeval{Sec: 10}
		if err := unix.SetsockoptTimeval(p.listener, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
			return err
		}
		p.server, _, err = unix.Accept4(p.listener, unix.SOCK_CLOEXEC)
		return err
	})
	if err != nil {
		t.Fatalf("connect to %s: %v", at, err)
	}
	t.Cleanup(func() { closeFD(&p.client); closeFD(&p.server) })
	return p
}

// closeFD closes a descriptor once.
func closeFD(fd *int) {
	if *fd >= 0 {
		unix.Close(*fd)
	}
	*fd = -1
}

// listen makes a listener, which shares its port.
func listen(t testing.TB, w *worker.Worker, at string) (fd int) {
	t.Helper()
	err := w.Do(func() error {
		family, sa := sockaddr(netip.MustParseAddrPort(at))
		var err error
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sa), unix.Listen(fd, 16))
	})
	if err != nil {
		t.Fatalf("listen on %s: %v", at, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func cookieOf(t testing.TB, fd int) uint64 {
	t.Helper()
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func inodeOf(t testing.TB, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
