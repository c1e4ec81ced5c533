package fstests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/msocket"
)

// pairMount mounts the two ends of a cable as the stacks a and b.
func pairMount(t *testing.T, more Config) (m *M, a, b *NS) {
	t.Helper()
	Require(t, Root, FUSE, NetAdmin, Kernel("5.6", "pidfd_getfd"))
	a, b = Pair(t)
	more.TOML = fmt.Sprintf("[stack.a]\nnetns = %q\n[stack.b]\nnetns = %q\n", a.Name, b.Name) + more.TOML
	m = Mount(t, more)
	t.Cleanup(msocket.CloseIdle)
	return m, a, b
}

// testContext ends with the test, or before that when something hangs.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), ScaleTime(20*time.Second))
	t.Cleanup(cancel)
	return ctx
}

// echo returns to each connection what it sends.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// checkEcho sends something on c and wants it back.
func checkEcho(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(ScaleTime(10 * time.Second))); err != nil {
		t.Fatal(err)
	}
	sent := []byte("through " + c.RemoteAddr().String())
	got := make([]byte, len(sent))
	if _, err := c.Write(sent); err != nil {
		t.Fatalf("write: %v", err)
	}
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("read: got %q, %v, want %q", got, err, sent)
	}
}

// netnsCookieOf returns the SO_NETNS_COOKIE of a socket.
func netnsCookieOf(t *testing.T, s syscall.Conn) string {
	t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cookie uint64
	cerr := raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	if err := errors.Join(cerr, err); err != nil {
		t.Fatalf("SO_NETNS_COOKIE: %v", err)
	}
	return strconv.FormatUint(cookie, 10)
}

func TestGoDialsBetweenStacks(t *testing.T) {
	m, a, b := pairMount(t, Config{})
	ctx := testContext(t)
	from := msocket.Stack{Path: m.Path("a")}
	for _, c := range []struct{ network, listen, dial string }{
		{"tcp", "%s:0", b.IP4.String()},
		{"tcp", "%s:0", b.IP6.String()},
		{"tcp4", "%s:0", b.IP4.String()},
		{"tcp6", "%s:0", b.IP6.String()},
	} {
		l, err := msocket.Listen(ctx, m.Path("b"), c.network, net.JoinHostPort(c.dial, "0"))
		if err != nil {
			t.Fatalf("Listen(%s): %v", c.network, err)
		}
		echo(t, l)
		conn, err := from.DialContext(ctx, c.network, l.Addr().String())
		if err != nil {
			t.Fatalf("Dial(%s, %v): %v", c.network, l.Addr(), err)
		}
		defer conn.Close()
		checkEcho(t, conn)
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			t.Fatalf("Dial(%s): got a %T, want a *net.TCPConn", c.network, conn)
		}
		if got, want := netnsCookieOf(t, tcp), m.Status("a")["netns_cookie"]; got != want {
			t.Errorf("the connection is in namespace %s, want %s", got, want)
		}
		if got, want := netnsCookieOf(t, l.(*net.TCPListener)), m.Status("b")["netns_cookie"]; got != want {
			t.Errorf("the listener is in namespace %s, want %s", got, want)
		}
		if got := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != a.IP4 && got != a.IP6 {
			t.Errorf("local address %v, want one of a", got)
		}
	}
}

func TestGoWildcardListensOnBothFamilies(t *testing.T) {
	m, _, b := pairMount(t, Config{})
	ctx := testContext(t)
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0"} {
		l, err := msocket.Listen(ctx, m.Path("b"), "tcp", address)
		if err != nil {
			t.Fatalf("Listen(%q): %v", address, err)
		}
		echo(t, l)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		for _, ip := range []netip.Addr{b.IP4, b.IP6} {
			conn, err := msocket.Dial(ctx, m.Path("a"), "tcp", net.JoinHostPort(ip.String(), port))
			if err != nil {
				t.Fatalf("Listen(%q): Dial(%v): %v", address, ip, err)
			}
			checkEcho(t, conn)
			conn.Close()
		}
	}
	l, err := msocket.Listen(ctx, m.Path("b"), "tcp6", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if c, err := msocket.Dial(ctx, m.Path("a"), "tcp", net.JoinHostPort(b.IP4.String(), port)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("tcp6 answers IPv4: %v, %v", c, err)
	}
}

func TestGoUDP(t *testing.T) {
	m, a, b := pairMount(t, Config{})
	ctx := testContext(t)
	for _, ip := range []netip.Addr{b.IP4, b.IP6} {
		server, err := msocket.ListenPacket(ctx, m.Path("b"), "udp", net.JoinHostPort(ip.String(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := msocket.Dial(ctx, m.Path("a"), "udp", server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, ok := client.(*net.UDPConn); !ok {
			t.Fatalf("got a %T, want a *net.UDPConn", client)
		}
		if _, err := client.Write([]byte("datagram")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100)
		if err := server.SetReadDeadline(time.Now().Add(ScaleTime(10 * time.Second))); err != nil {
			t.Fatal(err)
		}
		n, from, err := server.ReadFrom(got)
		if err != nil || string(got[:n]) != "datagram" {
			t.Fatalf("got %q, %v", got[:n], err)
		}
		if from := from.(*net.UDPAddr).AddrPort().Addr(); from != a.IP4 && from != a.IP6 {
			t.Errorf("from %v, want one of a", from)
		}
	}
}

// TestGoLinkLocal: the zone of an address is a link of the stack, not of
// the program.
func TestGoLinkLocal(t *testing.T) {
	m, a, b := pairMount(t, Config{})
	ctx := testContext(t)
	a.IP("addr", "add", "fe80::a/64", "dev", "eth0", "nodad")
	b.IP("addr", "add", "fe80::b/64", "dev", "eth0", "nodad")
	l, err := msocket.Listen(ctx, m.Path("b"), "tcp", "[fe80::b%eth0]:0")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	conn, err := msocket.Dial(ctx, m.Path("a"), "tcp", net.JoinHostPort("fe80::b%eth0", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	checkEcho(t, conn)
	if c, err := msocket.Dial(ctx, m.Path("a"), "tcp", net.JoinHostPort("fe80::b%nolink", port)); !errors.Is(err, unix.ENODEV) {
		t.Errorf("unknown link: got %v, %v", c, err)
	}
}

func TestGoThreeStacksInOneProcess(t *testing.T) {
	m, _, b := pairMount(t, Config{Stacks: []string{"own"}})
	ctx := testContext(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Context().Value(http.LocalAddrContextKey))
	})}
	t.Cleanup(func() { server.Close() })
	for stack, address := range map[string]string{"b": b.IP4.String() + ":80", "own": "127.0.0.1:80", "kernel": "127.0.0.1:0"} {
		l, err := msocket.Listen(ctx, m.Path(stack), "tcp", address)
		if err != nil {
			t.Fatalf("Listen on %s: %v", stack, err)
		}
		go server.Serve(l)
		through := stack
		if stack == "b" {
			through = "a"
		}
		transport := &http.Transport{DialContext: msocket.Stack{Path: m.Path(through)}.DialContext}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("http://" + l.Addr().String() + "/")
		if err != nil {
			t.Fatalf("through %s: %v", through, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != l.Addr().String() {
			t.Errorf("through %s: got %q, %v, want %q", through, body, err, l.Addr())
		}
	}
}

func TestGoChannelsAreUsedAgain(t *testing.T) {
	m, _, _ := pairMount(t, Config{Stacks: []string{"own"}})
	want := m.Status("own")["netns_cookie"]
	var wg sync.WaitGroup
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	for range 16 {
		wg.Go(func() {
			for i := range Scale(50) {
				typ := unix.SOCK_STREAM
				if i%2 == 1 {
					typ = unix.SOCK_DGRAM
				}
				f, err := msocket.Socket(m.Path("own"), unix.AF_INET+8*(i%2), typ, 0)
				if err != nil {
					fail(err)
					return
				}
				if got, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE); err != nil || got != typ {
					fail(fmt.Errorf("type %d, %v, want %d", got, err, typ))
				}
				if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					fail(fmt.Errorf("not close-on-exec: %#x, %v", flags, err))
				}
				if got := netnsCookieOf(t, f); got != want {
					fail(fmt.Errorf("in namespace %s, want %s", got, want))
				}
				f.Close()
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	if n, err := strconv.Atoi(m.Status("own")["channels"]); err != nil || n < 1 || n > 4 {
		t.Errorf("channels: got %d, %v, want 1 to 4", n, err)
	}
	msocket.CloseIdle()
	WaitFor(t, 5*time.Second, "all channels closed", func() bool { return m.Status("own")["channels"] == "0" })
}

func TestGoSocketFlagsAndErrors(t *testing.T) {
	m, _, _ := pairMount(t, Config{Stacks: []string{"own"}, TOML: "[stack.nobodys]\nmode = \"0000\"\n"})
	own := m.Path("own")
	f, err := msocket.Socket(own, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetDeadline(time.Now()); err != nil {
		t.Errorf("a non-blocking socket has no deadlines: %v", err)
	}
	f.Close()
	for _, c := range []struct {
		stack              string
		domain, typ, proto int
		want               error
	}{
		{"own", unix.AF_INET, -1, 0, unix.EINVAL},
		{"own", unix.AF_VSOCK, unix.SOCK_STREAM, 0, unix.EAFNOSUPPORT},
		{"own", unix.AF_VSOCK, -1, 0, unix.EAFNOSUPPORT},
		{"own", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_UDP, unix.EPROTONOSUPPORT},
		{"null", unix.AF_INET, unix.SOCK_STREAM, 0, unix.EAFNOSUPPORT},
		{"null", unix.AF_INET, -1, 0, unix.EAFNOSUPPORT},
		{"kernel", unix.AF_INET, -1, 0, unix.EINVAL},
		{"none", unix.AF_INET, unix.SOCK_STREAM, 0, unix.ENOENT},
		{"ctl", unix.AF_INET, unix.SOCK_STREAM, 0, unix.ENOTSUP},
		{"own/type", unix.AF_INET, unix.SOCK_STREAM, 0, unix.ENOTSUP},
		{".", unix.AF_INET, unix.SOCK_STREAM, 0, unix.ENOTSUP},
	} {
		if f, err := msocket.Socket(m.Path(c.stack), c.domain, c.typ, c.proto); f != nil || !errors.Is(err, c.want) {
			t.Errorf("Socket(%s, %d, %d, %d): got %v, %v, want %v", c.stack, c.domain, c.typ, c.proto, f, err, c.want)
		}
	}
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
		f, err := msocket.Socket(own, unix.AF_UNIX, typ, 0)
		if err != nil {
			t.Errorf("Socket(AF_UNIX): %v", err)
			continue
		}
		f.Close()
	}
	for _, raw := range []struct{ domain, typ, proto int }{
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, {unix.AF_PACKET, unix.SOCK_RAW, 0}, {unix.AF_NETLINK, unix.SOCK_RAW, 0},
	} {
		f, err := msocket.Socket(own, raw.domain, raw.typ, raw.proto)
		if err != nil {
			t.Errorf("Socket%v: %v", raw, err)
			continue
		}
		if got, want := netnsCookieOf(t, f), m.Status("own")["netns_cookie"]; got != want {
			t.Errorf("Socket%v: in namespace %s, want %s", raw, got, want)
		}
		f.Close()
	}
}

// TestGoKernelStackIsOwn: where the stack is the program's own namespace
// the daemon makes nothing.
func TestGoKernelStackIsOwn(t *testing.T) {
	m, _, _ := pairMount(t, Config{})
	for range 3 {
		f, err := msocket.Socket(m.Path("kernel"), unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := netnsCookieOf(t, f), m.Status("kernel")["netns_cookie"]; got != want {
			t.Errorf("in namespace %s, want %s", got, want)
		}
		f.Close()
	}
	if n := m.Status("kernel")["channels"]; n != "0" {
		t.Errorf("channels: got %s, want 0", n)
	}
}

// TestGoSocketFromAnotherThreadNamespace: what was learned in one namespace
// is not believed by a thread in another.
func TestGoSocketFromAnotherThreadNamespace(t *testing.T) {
	m, a, _ := pairMount(t, Config{TOML: "[stack.kernel]\nforeign = true\n"})
	kernel := m.Path("kernel")
	want := m.Status("kernel")["netns_cookie"]
	f, err := msocket.Socket(kernel, unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	inNamespace(t, a, func() error {
		for range 2 {
			f, err := msocket.Socket(kernel, unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			if got := netnsCookieOf(t, f); got != want {
				return fmt.Errorf("in namespace %s, want %s", got, want)
			}
		}
		return nil
	})
}
