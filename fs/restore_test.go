package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// mustPair makes a socketpair for the answer and returns what the ioctl is
// given of it.
func mustPair(t *testing.T, typ int) (kept int, r uapi.Restore) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	cookie, err := unix.GetsockoptUint64(pair[1], unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return pair[0], uapi.Restore{ReplyFD: int32(pair[1]), ReplyCookie: cookie}
}

func (h *handle) ioctl(cmd uint32, in []byte) ([]byte, syscall.Errno) {
	out := make([]byte, len(in))
	st := h.r.raw.Ioctl(h.r.ended, &fuse.IoctlIn{InHeader: h.r.header(h.node), Fh: h.fh, Cmd: cmd}, in, &fuse.IoctlOut{}, out)
	return out, syscall.Errno(st)
}

func (h *handle) restore(r uapi.Restore) syscall.Errno {
	h.r.t.Helper()
	in, err := r.MarshalBinary()
	if err != nil {
		h.r.t.Fatal(err)
	}
	_, e := h.ioctl(uapi.IocRestore, in)
	return e
}

// receive returns what waits on a socket: the answer and the name that /proc
// has of the descriptor with it.
func receive(t *testing.T, conn int) (uapi.ChanRep, string) {
	t.Helper()
	msg, oob := make([]byte, 64), make([]byte, 64)
	n, oobn, _, _, err := unix.Recvmsg(conn, msg, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	var rep uapi.ChanRep
	if err := rep.UnmarshalReply(msg[:n]); err != nil {
		t.Fatal(err)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(cmsgs) != 1 {
		t.Fatalf("%d control messages, %v, want 1", len(cmsgs), err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v, want 1", fds, err)
	}
	defer unix.Close(fds[0])
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fds[0]))
	if err != nil {
		t.Fatal(err)
	}
	return rep, name
}

// restorer keeps the image and returns a file whose name is known.
func restorer(t *testing.T, lab *fakeStack) (got *[]byte, name string) {
	f, err := os.CreateTemp(t.TempDir(), "restored")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	got = new([]byte)
	lab.restore = func(_ context.Context, image []byte) (*os.File, error) {
		*got = bytes.Clone(image)
		return os.Open(f.Name())
	}
	return got, f.Name()
}

func TestRestore(t *testing.T) {
	lab := newFakeStack()
	image, name := restorer(t, lab)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	h := r.mustOpen("lab/restore", os.O_RDWR)
	defer h.close()
	if e := h.writeAt("0123456789", 0); e != 0 {
		t.Fatal(e)
	}
	if e := h.writeAt("abc", 12); e != 0 {
		t.Fatal(e)
	}
	if e := h.writeAt("XY", 1); e != 0 {
		t.Fatal(e)
	}
	conn, args := mustPair(t, unix.SOCK_SEQPACKET)
	before := openFDs(t)
	if e := h.restore(args); e != 0 {
		t.Fatalf("restore: %v (%s)", e, h.readAll(0))
	}
	if want := "0XY3456789\x00\x00abc"; string(*image) != want {
		t.Errorf("image %q, want %q", *image, want)
	}
	if rep, got := receive(t, conn); got != name || rep != (uapi.ChanRep{Flags: uapi.ChanClosed}) {
		t.Errorf("answer %+v with %s, want %s", rep, got, name)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors are open, before %d", after, before)
	}
	if got := h.readAll(0); got != "" {
		t.Errorf("after success: %q", got)
	}
	// Another open file has an image of its own.
	other := r.mustOpen("lab/restore", os.O_RDWR|os.O_APPEND)
	defer other.close()
	for _, part := range []string{"ab", "cd"} {
		if e := other.writeAt(part, 0); e != 0 { // where the kernel thinks the end is
			t.Fatal(e)
		}
	}
	if e := other.restore(args); e != 0 || string(*image) != "abcd" {
		t.Errorf("appended: %v, image %q", e, *image)
	}
	for size, want := range map[uint64]fuse.Status{1: fuse.EINVAL, 0: fuse.OK} {
		in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: r.header(other.node), Valid: fuse.FATTR_SIZE | fuse.FATTR_FH, Fh: other.fh, Size: size}}
		if st := r.raw.SetAttr(nil, &in, &fuse.AttrOut{}); st != want {
			t.Errorf("truncated to %d: got %v, want %v", size, st, want)
		}
	}
	if e := other.restore(args); e != 0 || len(*image) != 0 {
		t.Errorf("truncated: %v, image %q", e, *image)
	}
	var v uapi.Version
	in, _ := v.MarshalBinary()
	if out, e := h.ioctl(uapi.IocVersion, in); e != 0 || v.UnmarshalReply(out) != nil || v.Features&uapi.FeatureConns == 0 {
		t.Errorf("version: %+v, %v, want FeatureConns", v, e)
	}
	if _, e := h.ioctl(uapi.IocMsocket, make([]byte, uapi.SizeMsocket)); e != syscall.ENOTTY {
		t.Errorf("another command: got %v, want ENOTTY", e)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestRestoreThatFails: in words, with nothing restored where the answer
// could not be sent.
func TestRestoreThatFails(t *testing.T) {
	lab := newFakeStack()
	image, _ := restorer(t, lab)
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	h := r.mustOpen("lab/restore", os.O_RDWR)
	defer h.close()
	if e := h.writeAt("image", 0); e != 0 {
		t.Fatal(e)
	}
	_, good := mustPair(t, unix.SOCK_SEQPACKET)
	_, stream := mustPair(t, unix.SOCK_STREAM)
	wrongCookie, flags, closed, file := good, good, good, good
	wrongCookie.ReplyCookie++
	flags.Flags = 1
	closed.ReplyFD = 1 << 20
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file.ReplyFD = int32(null.Fd())
	for what, tt := range map[string]struct {
		args uapi.Restore
		want syscall.Errno
		text string
	}{
		"cookie": {wrongCookie, syscall.EBADF, "another socket"},
		"flags":  {flags, syscall.EINVAL, "unknown flags"},
		"closed": {closed, syscall.EBADF, "descriptor"},
		"file":   {file, syscall.ENOTSOCK, "descriptor"},
		"stream": {stream, syscall.EPROTOTYPE, "SOCK_SEQPACKET"},
	} {
		if e := h.restore(tt.args); e != tt.want || *image != nil {
			t.Errorf("%s: got %v, image %q, want %v and no restore", what, e, *image, tt.want)
		}
		if got := h.readAll(5); !strings.HasPrefix(got, "error: ") || !strings.Contains(got, tt.text) {
			t.Errorf("%s: the reason is %q", what, got)
		}
	}
	restored := lab.restore
	lab.restore = func(context.Context, []byte) (*os.File, error) {
		return nil, fmt.Errorf("192.0.2.1 is not an address of this stack: %w", syscall.EADDRNOTAVAIL)
	}
	if e := h.restore(good); e != syscall.EADDRNOTAVAIL {
		t.Errorf("got %v, want EADDRNOTAVAIL", e)
	}
	if got, want := h.readAll(0), "error: 192.0.2.1 is not an address of this stack: cannot assign requested address\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// Who has gone meanwhile gets nothing, and the image can be used again.
	lab.restore = restored
	gone, args := mustPair(t, unix.SOCK_SEQPACKET)
	if err := unix.Shutdown(gone, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	before := openFDs(t)
	if e := h.restore(args); e != syscall.EPIPE {
		t.Errorf("a pair that is shut down: got %v, want EPIPE", e)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors are open, before %d", after, before)
	}
	if e := h.restore(good); e != 0 || string(*image) != "image" {
		t.Errorf("once more: %v, image %q", e, *image)
	}
}

func TestOneRestoreAtATime(t *testing.T) {
	lab := newFakeStack()
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": lab})
	h := r.mustOpen("lab/restore", os.O_RDWR)
	defer h.close()
	_, args := mustPair(t, unix.SOCK_SEQPACKET)
	lab.restore = func(context.Context, []byte) (*os.File, error) {
		if e := h.writeAt("x", 0); e != syscall.EBUSY {
			t.Errorf("write meanwhile: got %v, want EBUSY", e)
		}
		if e := h.restore(args); e != syscall.EBUSY {
			t.Errorf("another restore meanwhile: got %v, want EBUSY", e)
		}
		return nil, errors.ErrUnsupported
	}
	if e := h.restore(args); e != syscall.EOPNOTSUPP {
		t.Errorf("got %v, want EOPNOTSUPP", e)
	}
	if e := h.writeAt("x", 0); e != 0 {
		t.Errorf("write afterwards: %v", e)
	}
}

func TestImagesThatAreWrittenAreCounted(t *testing.T) {
	r := newRig(t, stacknode.Spec{}, map[string]*fakeStack{"lab": newFakeStack()})
	r.tree.memory = stacknode.NewQuota(200 << 10)
	r.uid = someUser
	h := r.mustOpen("lab/restore", os.O_RDWR)
	if e := h.writeAt("x", maxImage); e != syscall.EFBIG {
		t.Errorf("behind the limit: got %v, want EFBIG", e)
	}
	if e := h.writeAt("x", 1<<62); e != syscall.EFBIG {
		t.Errorf("far behind the limit: got %v, want EFBIG", e)
	}
	if e := h.writeAt("x", 0); e != 0 {
		t.Fatal(e)
	}
	if e := h.writeAt("x", 150<<10); e != syscall.ENOBUFS {
		t.Errorf("more than one may have while it is copied: got %v, want ENOBUFS", e)
	}
	if e := h.writeAt("y", 1); e != 0 {
		t.Errorf("what has room after a refusal: %v", e)
	}
	h.close()
	if release, err := r.tree.memory.AcquireN(someUser, 200<<10); err != nil {
		t.Errorf("not all was given back at close")
	} else {
		release()
	}
}

// TestWhoMayRestore: who may read the directory, which is the right to make
// sockets.
func TestWhoMayRestore(t *testing.T) {
	r := newRig(t, stacknode.Spec{Mode: 0o750, UID: someUser, GID: 100}, map[string]*fakeStack{"lab": newFakeStack()})
	s, err := r.tree.reg.Get("lab")
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[iofs.FileMode]uint32{0o750: 0o660, 0o755: 0o666, 0o700: 0o600, 0o711: 0o600, 0o731: 0o600, 0o000: 0, 0o044: 0o066} {
		s.SetAccess(&mode, nil, nil)
		if out := r.mustWalk("lab/restore"); out.Mode != syscall.S_IFREG|want || out.Uid != someUser || out.Gid != 100 {
			t.Errorf("stack %04o: %o of %d:%d, want %o", mode, out.Mode, out.Uid, out.Gid, want)
		}
		node := r.mustWalk("lab/restore").NodeId
		if a, e := r.getattr(node); e != 0 || a.Mode != syscall.S_IFREG|want {
			t.Errorf("stack %04o: attributes %o, %v, want %o", mode, a.Mode, e, want)
		}
		in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: r.header(node), Valid: fuse.FATTR_MODE, Mode: 0o666}}
		if st := r.raw.SetAttr(nil, &in, &fuse.AttrOut{}); st != fuse.EPERM {
			t.Errorf("chmod: got %v, want EPERM", st)
		}
	}
}
