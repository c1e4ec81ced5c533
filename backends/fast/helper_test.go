package fast

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/conns"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("STACKFS_STRICT") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// newFast returns a fast stack of this process' namespace.
func newFast(t *testing.T) *Fast {
	t.Helper()
	requireRoot(t)
	f, err := New(stacknode.Spec{Name: "fast", Fast: stacknode.FastSpec{Spawn: stacknode.SpawnPin}}, worker.Env{}, conns.Env{Tags: conns.NewTags(t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// listener returns a TCP socket that is bound to a port of loopback.
func listener(t *testing.T, set ...func(fd int) error) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	t.Cleanup(func() { f.Close() })
	for _, fn := range set {
		err = errors.Join(err, fn(fd))
	}
	err = errors.Join(err, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// me is a request of this process, as if uid asked.
func me(uid uint32) *stacknode.Caller {
	return &stacknode.Caller{PID: os.Getpid(), TID: os.Getpid(), RealUID: uid}
}

func mustSpawn(t *testing.T, f *Fast, l *os.File) *stacknode.Spawned {
	t.Helper()
	s, err := f.Spawn(t.Context(), me(0), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// take takes a clone out of a box; -1: it is empty.
func take(t *testing.T, box *os.File) int {
	t.Helper()
	msg, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(8))
	n, oobn, _, _, err := unix.Recvmsg(int(box.Fd()), msg, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err == unix.EAGAIN {
		return -1
	}
	if err != nil {
		t.Fatalf("take a clone: %v", err)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(cmsgs) != 1 {
		t.Fatalf("%d control messages, %v, want 1", len(cmsgs), err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v, want 1", fds, err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	cookie, err := unix.GetsockoptUint64(fds[0], unix.SOL_SOCKET, unix.SO_COOKIE)
	want, merr := (&uapi.Clone{Cookie: cookie}).MarshalBinary()
	if err != nil || merr != nil || !slices.Equal(msg[:n], want) {
		t.Fatalf("message %x, want %x (%v, %v)", msg[:n], want, err, merr)
	}
	return fds[0]
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// openFDs returns how many descriptors this process has open.
func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func intOption(t *testing.T, f *os.File, level, name int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(int(f.Fd()), level, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
