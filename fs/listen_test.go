package fs

import (
	"context"
	"errors"
	"os"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// A fakeFast is a backend that makes clones as a test says.
type fakeFast struct {
	*fakeStack
	spawn func(caller *stacknode.Caller, sock *os.File) (*stacknode.Spawned, error)
}

func (f *fakeFast) Spawn(_ context.Context, caller *stacknode.Caller, sock *os.File) (*stacknode.Spawned, error) {
	return f.spawn(caller, sock)
}

var _ stacknode.Spawner = (*fakeFast)(nil)

func (h *handle) listen(l uapi.Listen) (uapi.Listen, syscall.Errno) {
	h.r.t.Helper()
	in, err := l.MarshalBinary()
	if err != nil {
		h.r.t.Fatal(err)
	}
	out, e := h.ioctl(uapi.IocListen, in)
	var reply uapi.Listen
	if e == 0 {
		if err := reply.UnmarshalReply(out); err != nil {
			h.r.t.Fatal(err)
		}
	}
	return reply, e
}

// mustListener makes a socket and returns what the ioctl is given of it.
func mustListener(t *testing.T) (fd int, cookie uint64) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		t.Fatal(err)
	}
	return fd, cookie
}

// The backend gets the very socket of the caller, who gets box and page.
func TestListen(t *testing.T) {
	var asked uint64
	fast := &fakeFast{fakeStack: newFakeStack()}
	fast.spawn = func(caller *stacknode.Caller, sock *os.File) (*stacknode.Spawned, error) {
		if caller.PID != os.Getpid() {
			return nil, syscall.ESRCH
		}
		asked, _ = unix.GetsockoptUint64(int(sock.Fd()), unix.SOL_SOCKET, unix.SO_COOKIE)
		box, err := os.Open("/dev/null")
		page, perr := os.Open("/dev/zero")
		return &stacknode.Spawned{Box: box, Page: page, Size: 6}, errors.Join(err, perr)
	}
	r := newRigOf(t, stacknode.Spec{}, map[string]stacknode.Backend{"fast": fast})
	h, e := r.opendir(r.mustWalk("fast").NodeId)
	if e != 0 {
		t.Fatal(e)
	}
	defer h.close()
	fd, cookie := mustListener(t)
	conn, pair := mustPair(t, unix.SOCK_SEQPACKET)
	before := openFDs(t)
	reply, e := h.listen(uapi.Listen{ReplyFD: pair.ReplyFD, ReplyCookie: pair.ReplyCookie, ListenerFD: int32(fd), ListenerCookie: cookie})
	if e != 0 || reply.BoxSize != 6 || asked != cookie {
		t.Errorf("got %+v, %v, of socket %d, want box of 6, of %d", reply, e, asked, cookie)
	}
	msg, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(8))
	n, oobn, _, _, err := unix.Recvmsg(conn, msg, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil || n != uapi.SizeChanRep {
		t.Fatalf("an answer of %d bytes, %v", n, err)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(cmsgs) != 1 {
		t.Fatalf("%d control messages, %v", len(cmsgs), err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) != 2 {
		t.Fatalf("descriptors %v, %v, want 2", fds, err)
	}
	for i, want := range []string{"/dev/null", "/dev/zero"} {
		if got, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fds[i])); got != want {
			t.Errorf("descriptor %d is %s, want %s", i, got, want)
		}
		unix.Close(fds[i])
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors are open, before %d", after, before)
	}
}

func TestListenThatFails(t *testing.T) {
	calls := 0
	fast := &fakeFast{fakeStack: newFakeStack()}
	fast.spawn = func(*stacknode.Caller, *os.File) (*stacknode.Spawned, error) {
		calls++
		return nil, syscall.EMFILE
	}
	r := newRigOf(t, stacknode.Spec{}, map[string]stacknode.Backend{"fast": fast, "lab": newFakeStack()})
	fd, cookie := mustListener(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		name, stack string
		change      func(l *uapi.Listen)
		calls       int
		want        syscall.Errno
	}{
		{"of the backend", "fast", func(*uapi.Listen) {}, 1, syscall.EMFILE},
		{"another kind", "lab", func(*uapi.Listen) {}, 0, syscall.EOPNOTSUPP},
		{"flags", "fast", func(l *uapi.Listen) { l.Flags = 1 }, 0, syscall.EINVAL},
		{"another listener", "fast", func(l *uapi.Listen) { l.ListenerCookie++ }, 0, syscall.EBADF},
		{"another reply", "fast", func(l *uapi.Listen) { l.ReplyCookie++ }, 0, syscall.EBADF},
		{"not open", "fast", func(l *uapi.Listen) { l.ListenerFD = 1 << 20 }, 0, syscall.EBADF},
		{"no socket", "fast", func(l *uapi.Listen) { l.ListenerFD = int32(null.Fd()) }, 0, syscall.ENOTSOCK},
		{"no reply", "fast", func(l *uapi.Listen) { l.ReplyFD = int32(null.Fd()) }, 0, syscall.ENOTSOCK},
	} {
		h, e := r.opendir(r.mustWalk(c.stack).NodeId)
		if e != 0 {
			t.Fatal(e)
		}
		_, pair := mustPair(t, unix.SOCK_SEQPACKET)
		l := uapi.Listen{ReplyFD: pair.ReplyFD, ReplyCookie: pair.ReplyCookie, ListenerFD: int32(fd), ListenerCookie: cookie}
		c.change(&l)
		before := openFDs(t)
		calls = 0
		if _, e := h.listen(l); e != c.want || calls != c.calls {
			t.Errorf("%s: got %v after %d calls, want %v after %d", c.name, e, calls, c.want, c.calls)
		}
		if after := openFDs(t); after != before {
			t.Errorf("%s: %d descriptors are open, before %d", c.name, after, before)
		}
		h.close()
	}
}
