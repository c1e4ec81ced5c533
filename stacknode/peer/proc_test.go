package peer

import (
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const statusText = "Name:\tevil: Uid:\t0\nUmask:\t0022\nTgid:\t71\nPid:\t72\nPPid:\t1\nUid:\t1000\t1001\t1002\t1003\n" +
	"Gid:\t100\t101\t102\t103\nGroups:\t4 24 4294967294 \nCapInh:\t0000000000000000\nCapPrm:\t00000000000000ff\nCapEff:\t000001ffffffffff\n"

func TestParseStatus(t *testing.T) {
	st, err := parseStatus([]byte(statusText))
	if err != nil {
		t.Fatal(err)
	}
	if st.TGID != 71 || st.PPID != 1 || st.RealUID != 1000 || st.UID != 1001 || st.SavedUID != 1002 ||
		st.GID != 101 || st.CapPrm != 0xff || st.CapEff != 0x1ffffffffff || !slices.Equal(st.Groups, []uint32{4, 24, 4294967294}) {
		t.Errorf("got %+v", st)
	}
	for _, text := range []string{"", "Uid:\t0\n", "Uid:\tx\t0\t0\t0\n", statusText[:60]} {
		if _, err := parseStatus([]byte(text)); err == nil {
			t.Errorf("parseStatus(%q): no error", text)
		}
	}
}

func TestCallerIsOneself(t *testing.T) {
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := p.Caller()
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Look()
	if err != nil {
		t.Fatal(err)
	}
	if c.PID != os.Getpid() || c.UID != uint32(os.Geteuid()) || d.UID != c.UID || !d.SameUserNS || c.NetNS().Ino == 0 {
		t.Errorf("got %+v, %+v", c, d)
	}
}

func TestOpenOfNoThread(t *testing.T) {
	for _, tid := range []int{0, -1, 1 << 22} {
		if _, err := Open(tid); err == nil {
			t.Errorf("Open(%d): no error", tid)
		}
	}
}

// pair returns both ends of a socketpair and the cookie of the second.
func pair(t *testing.T, domain, typ int) (a, b *os.File, cookie uint64) {
	t.Helper()
	fds, err := unix.Socketpair(domain, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { a.Close(); b.Close() })
	if cookie, err = unix.GetsockoptUint64(fds[1], unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		t.Fatal(err)
	}
	return a, b, cookie
}

func TestCheckReply(t *testing.T) {
	_, good, cookie := pair(t, unix.AF_UNIX, unix.SOCK_SEQPACKET)
	if err := CheckReply(good, cookie); err != nil {
		t.Errorf("an end of a pair: %v", err)
	}
	if err := CheckReply(good, cookie+1); !errors.Is(err, syscall.EBADF) {
		t.Errorf("another cookie: got %v, want EBADF", err)
	}
	_, stream, cookie := pair(t, unix.AF_UNIX, unix.SOCK_STREAM)
	if err := CheckReply(stream, cookie); !errors.Is(err, syscall.EPROTOTYPE) {
		t.Errorf("a stream: got %v, want EPROTOTYPE", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := CheckReply(null, 1); !errors.Is(err, syscall.ENOTSOCK) {
		t.Errorf("a device: got %v, want ENOTSOCK", err)
	}
}

// A connection to a server must not be taken for a pair: the daemon would
// speak to that server in the caller's place.
func TestCheckReplyRefusesAConnection(t *testing.T) {
	name := "@stackfs-peer-test-" + t.Name()
	server, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(server)
	if err := errors.Join(unix.Bind(server, &unix.SockaddrUnix{Name: name}), unix.Listen(server, 1)); err != nil {
		t.Fatal(err)
	}
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(client), "client")
	defer f.Close()
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	cookie, err := unix.GetsockoptUint64(client, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckReply(f, cookie); !errors.Is(err, syscall.EPROTOTYPE) {
		t.Errorf("a connection: got %v, want EPROTOTYPE", err)
	}
}

func TestSendReplyDoesNotBlock(t *testing.T) {
	a, b, _ := pair(t, unix.AF_UNIX, unix.SOCK_SEQPACKET)
	var err error
	for range 100000 {
		if err = SendReply(b, make([]byte, 16)); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a reader that does not read: got %v, want EAGAIN", err)
	}
	a.Close()
	if err := SendReply(b, make([]byte, 16)); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reader that is gone: got %v, want EPIPE", err)
	}
}

func TestFetchFD(t *testing.T) {
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	fetch := func(n int) (*os.File, error) { return p.FetchFD(os.Getpid(), n, IsSocket, syscall.ENOTSOCK) }
	if _, err := fetch(1 << 20); !errors.Is(err, syscall.EBADF) {
		t.Errorf("a descriptor that is not open: got %v, want EBADF", err)
	}
	if _, err := fetch(-1); !errors.Is(err, syscall.EBADF) {
		t.Errorf("descriptor -1: got %v, want EBADF", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := fetch(int(null.Fd())); !errors.Is(err, syscall.ENOTSOCK) {
		t.Errorf("a device: got %v, want ENOTSOCK", err)
	}
	_, b, cookie := pair(t, unix.AF_UNIX, unix.SOCK_SEQPACKET)
	f, err := fetch(int(b.Fd()))
	if errors.Is(err, syscall.EPERM) {
		t.Skip("the kernel does not let a process fetch its own descriptors here")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := CheckReply(f, cookie); err != nil {
		t.Errorf("the fetched end: %v", err)
	}
}

func TestGetenv(t *testing.T) {
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got, err := p.Getenv("PATH"); err != nil || got != os.Getenv("PATH") {
		t.Errorf("PATH: got %q, %v, want %q", got, err, os.Getenv("PATH"))
	}
	if got, err := p.Getenv("STACKFS_NO_SUCH_VARIABLE"); err != nil || got != "" {
		t.Errorf("a variable that is not there: got %q, %v", got, err)
	}
}
