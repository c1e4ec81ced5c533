package peer

import (
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

func socketInode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestFindHoldersFindsEveryTable(t *testing.T) {
	h := startHelper(t, "", syscall.SysProcAttr{})
	own := startHelper(t, "thread", syscall.SysProcAttr{})
	a, _, _ := pair(t, unix.AF_UNIX, unix.SOCK_STREAM)
	copied, err := unix.FcntlInt(a.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(copied)
	ours := socketInode(t, copied)

	found, err := FindHolders(map[uint64]bool{h.inode: true, own.inode: true, ours: true, 1: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 3 {
		t.Errorf("got %d sockets, want 3: %v", len(found), found)
	}
	if got, want := found[h.inode], []Holder{{PID: h.pid, FD: h.fd}}; !slices.Equal(got, want) {
		t.Errorf("one process: got %v, want %v", got, want)
	}
	if got := found[own.inode]; len(got) != 1 || got[0].PID != own.pid || got[0].TID == 0 || got[0].TID == own.pid || got[0].FD != own.fd {
		t.Errorf("a table of a thread's own: got %v, want a thread of %d", got, own.pid)
	}
	want := []Holder{{PID: os.Getpid(), FD: int(a.Fd())}, {PID: os.Getpid(), FD: copied}}
	if got := found[ours]; !slices.Equal(got, want) {
		t.Errorf("two descriptors: got %v, want %v", got, want)
	}
	found, err = FindHolders(map[uint64]bool{h.inode: true, ours: true}, os.Getpid())
	if err != nil || len(found) != 1 || len(found[h.inode]) != 1 {
		t.Errorf("without this process: got %v, %v", found, err)
	}
	all, err := FindHolders(nil)
	if err != nil || len(all) < 3 || len(all[h.inode]) != 1 {
		t.Errorf("every socket: got %d, %v", len(all), err)
	}
}

// A user hands his socket to a process of root's and asks for what is done
// with it then.
func TestHolderThatIsRoots(t *testing.T) {
	requireRoot(t)
	user := startHelper(t, "", syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}})
	asker := startHelper(t, "", syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}})
	tracer := tracerOf(t, asker.pid)
	check := func() error {
		t.Helper()
		found, err := FindHolders(map[uint64]bool{user.inode: true})
		if err != nil || len(found[user.inode]) == 0 {
			t.Fatalf("got %v, %v", found, err)
		}
		return tracer.Holders(found[user.inode])
	}
	if err := check(); err != nil {
		t.Errorf("the user alone: %v", err)
	}
	pidfd, err := unix.PidfdOpen(user.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, user.fd, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var refused *stacknode.HolderError
	if err := check(); !errors.As(err, &refused) || refused.PID != os.Getpid() || !errors.Is(err, unix.EPERM) {
		t.Errorf("with us: got %v, want that %d may not be traced", err, os.Getpid())
	}
	if gone := []Holder{{PID: 1 << 22}}; tracer.Holders(gone) != nil {
		t.Error("who has ended counts as a holder")
	}
}

func BenchmarkFindHolders(b *testing.B) {
	fds := make([]int, 0, 10000)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range cap(fds) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Skip(err)
		}
		fds = append(fds, fd)
	}
	for b.Loop() {
		if _, err := FindHolders(map[uint64]bool{1: true}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestFetchSocket(t *testing.T) {
	requireRoot(t)
	h := startHelper(t, "", syscall.SysProcAttr{})
	holder := Holder{PID: h.pid, FD: h.fd}
	pidfd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, h.fd, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	f, err := FetchSocket(holder, cookie)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := socketInode(t, int(f.Fd())); got != h.inode {
		t.Errorf("got socket %d, want %d", got, h.inode)
	}
	if _, err := FetchSocket(holder, cookie+1); !errors.Is(err, unix.EBADF) {
		t.Errorf("another cookie: got %v, want EBADF", err)
	}
	if _, err := FetchSocket(Holder{PID: h.pid, FD: 0}, cookie); !errors.Is(err, unix.EBADF) {
		t.Errorf("a pipe: got %v, want EBADF", err)
	}
}
