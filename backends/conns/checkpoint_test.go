package conns

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode"
)

// bpfStack is newStack with live snapshots.
func bpfStack(t *testing.T) (*Stack, func(at string) *pair) {
	t.Helper()
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeBPF)
	if err := s.env.Engine.Check(); err != nil {
		if os.Getenv("STACKFS_STRICT") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return s, func(at string) *pair { return connect(t, w, at) }
}

func mustWrite(t *testing.T, fd int, text string) {
	t.Helper()
	if n, err := unix.Write(fd, []byte(text)); err != nil || n != len(text) {
		t.Fatalf("write: %d, %v", n, err)
	}
}

func mustRead(t *testing.T, fd, n int) string {
	t.Helper()
	f, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := os.NewFile(uintptr(f), "socket")
	defer r.Close()
	limit := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(b)
}

// endSilently ends a connection as moving it away does.
func endSilently(t *testing.T, fd *int) {
	t.Helper()
	if _, err := soccr.Pause(*fd); err != nil {
		t.Fatal(err)
	}
	closeFD(fd)
}

func TestCheckpointAndRestore(t *testing.T) {
	s, connect := bpfStack(t)
	ctx := testContext(t)
	for _, at := range []string{"192.0.2.1:4001", "[2001:db8::1]:4001", "[::ffff:192.0.2.1]:4002"} {
		p := connect(at)
		mustWrite(t, p.server, "to the client")
		mustWrite(t, p.client, "to the server")
		cookie := cookieOf(t, p.client)
		b, err := s.Checkpoint(ctx, self(t), cookie)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		again, err := s.Checkpoint(ctx, self(t), cookie)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		img, err := image.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		_, here := s.cfg.Worker.NetNS()
		m := img.Conn.Meta
		if m.Cookie != cookie || m.Inode != inodeOf(t, p.client) || !m.Live || m.Method != "bpf" || m.Stack != "lab" || m.NetNS != here || m.Version != "test" || m.Time.IsZero() {
			t.Errorf("%s: got %+v", at, m)
		}
		if string(img.Conn.Recv) != "to the client" || img.Conn.State != soccr.Established {
			t.Errorf("%s: got state %v, %q", at, img.Conn.State, img.Conn.Recv)
		}
		if other, err := image.Decode(again); err != nil || other.Seal.Nonce == img.Seal.Nonce {
			t.Errorf("%s: two images have one nonce (%v)", at, err)
		}

		// While the connection is there, no other can be.
		if f, err := s.Restore(ctx, self(t), b); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: of a connection that is there: got %v, %v, want EADDRINUSE", at, f, err)
		}
		endSilently(t, &p.client)
		f, err := s.Restore(ctx, self(t), b)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		fd := int(f.Fd())
		if got := mustRead(t, fd, len("to the client")); got != "to the client" {
			t.Errorf("%s: got %q", at, got)
		}
		mustWrite(t, fd, ", and more")
		if got := mustRead(t, p.server, len("to the server, and more")); got != "to the server, and more" {
			t.Errorf("%s: got %q", at, got)
		}
		mustWrite(t, p.server, "back")
		if got := mustRead(t, fd, 4); got != "back" {
			t.Errorf("%s: got %q", at, got)
		}
		f.Close()
	}
}

func TestRestoreGoesToTheUserAndOnce(t *testing.T) {
	s, connect := bpfStack(t)
	ctx := testContext(t)
	user := userCaller(1000, 0)
	p := connect("192.0.2.1:4001")
	s.cfg.Grants = []stacknode.Grant{{UIDs: []uint32{1000}, Checkpoint: true}}
	b, err := s.Checkpoint(ctx, user, cookieOf(t, p.client))
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Grants = nil
	endSilently(t, &p.client)
	f, err := s.Restore(ctx, user, b)
	if err != nil {
		t.Fatal(err)
	}
	if sock := find(t, s, cookieOf(t, int(f.Fd()))); sock.uid != 1000 {
		t.Errorf("the socket belongs to uid %d, want 1000", sock.uid)
	}
	if _, err := soccr.Pause(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := s.Restore(ctx, user, b); !errors.Is(err, errNonce) {
		t.Errorf("a second time: got %v, want errNonce", err)
	}
	if f, err = s.Restore(ctx, self(t), b); err != nil {
		t.Errorf("a second time, by root: %v", err)
	} else {
		f.Close()
	}
}

func TestWhatCannotBeSavedSaysWhy(t *testing.T) {
	s, connect := bpfStack(t)
	ctx := testContext(t)
	p := connect("192.0.2.1:4001")
	for name, call := range map[string]func(uint64) error{
		"checkpoint": func(c uint64) error { _, err := s.Checkpoint(ctx, self(t), c); return err },
		"pause":      func(c uint64) error { return s.Pause(ctx, self(t), c, 0) },
		"discard":    func(c uint64) error { return s.Discard(ctx, self(t), c) },
	} {
		var why *soccr.UnsaveableError
		if err := call(cookieOf(t, p.listener)); !errors.As(err, &why) || why.Reason == "" {
			t.Errorf("%s of a listener: got %v", name, err)
		}
		if err := call(1 << 60); !errors.Is(err, stacknode.ErrNoConn) {
			t.Errorf("%s of nothing: got %v, want ErrNoConn", name, err)
		}
	}
	if err := s.Resume(ctx, self(t), cookieOf(t, p.client)); !errors.Is(err, stacknode.ErrNotPaused) {
		t.Errorf("resume of what is not paused: got %v", err)
	}
}

func TestWhatIsNoImageIsRefused(t *testing.T) {
	s, connect := bpfStack(t)
	ctx := testContext(t)
	p := connect("192.0.2.1:4001")
	b, err := s.Checkpoint(ctx, self(t), cookieOf(t, p.client))
	if err != nil {
		t.Fatal(err)
	}
	endSilently(t, &p.client)
	changed := bytes.Clone(b)
	changed[len(changed)/2] ^= 1
	for name, bad := range map[string][]byte{"nothing": nil, "a half": b[:len(b)/2], "a bit changed": changed} {
		if _, err := s.Restore(ctx, self(t), bad); !errors.Is(err, image.ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		}
	}
	elsewhere := newStack(t, newWorker(t, newNetNS(t)), ModeRepair)
	img, err := image.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	img.Conn.Local = someConn("198.51.100.1:4001").Local
	if b, err = image.Encode(img.Conn, image.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := elsewhere.Restore(ctx, self(t), b); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("an address that the stack has not: got %v, want EADDRNOTAVAIL", err)
	}
}

func TestOff(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	p := connect(t, w, "192.0.2.1:4001")
	cookie := cookieOf(t, p.client)
	_, err := s.Checkpoint(ctx, self(t), cookie)
	_, rerr := s.Restore(ctx, self(t), nil)
	for name, err := range map[string]error{
		"checkpoint": err, "restore": rerr,
		"pause": s.Pause(ctx, self(t), cookie, 0), "discard": s.Discard(ctx, self(t), cookie),
	} {
		if !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: got %v, want EOPNOTSUPP", name, err)
		}
	}
	if got := s.env.Engine.Describe(); got != "off" {
		t.Errorf("got %q", got)
	}
}

func TestAbort(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	p := connect(t, w, "192.0.2.1:4001")
	cookie := cookieOf(t, p.client)
	if err := s.Abort(ctx, userCaller(1000, ^stacknode.CapSet(0)), cookie); !errors.Is(err, unix.EPERM) {
		t.Errorf("another user: got %v, want EPERM", err)
	}
	if err := s.Abort(ctx, self(t), cookie); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(p.client, []byte("x")); !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("its owner: got %v, want ECONNABORTED", err)
	}
	if _, err := unix.Read(p.server, make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer: got %v, want ECONNRESET", err)
	}
	if err := s.Abort(ctx, self(t), cookie); !errors.Is(err, stacknode.ErrNoConn) {
		t.Errorf("again: got %v, want ErrNoConn", err)
	}
}

// What is done where the kernel cannot destroy sockets.
func TestAbortByADescriptor(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	p := connect(t, w, "192.0.2.1:4001")
	if err := s.disconnect(testContext(t), find(t, s, cookieOf(t, p.client))); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Read(p.server, make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer: got %v, want ECONNRESET", err)
	}
}
