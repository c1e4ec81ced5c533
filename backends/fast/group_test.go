package fast

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

func TestClonesAreBoundAndDoNotListen(t *testing.T) {
	f := newFast(t)
	l := listener(t, func(fd int) error { return unix.Fchown(fd, 4711, 4712) })
	s := mustSpawn(t, f, l)
	if s.Size != boxSize() || s.Size < runtime.NumCPU() {
		t.Errorf("box of %d, want %d", s.Size, boxSize())
	}
	want, _ := unix.Getsockname(int(l.Fd()))
	for i := range s.Size {
		fd := take(t, s.Box)
		if fd < 0 {
			t.Fatalf("%d clones, want %d", i, s.Size)
		}
		got, err := unix.Getsockname(fd)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("bound to %v, %v, want %v", got, err, want)
		}
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); on != 0 || err != nil {
			t.Errorf("SO_ACCEPTCONN: %d, %v", on, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Uid != 4711 || st.Gid != 4712 {
			t.Errorf("owner %d:%d, %v, want the original's", st.Uid, st.Gid, err)
		}
	}
	if fd := take(t, s.Box); fd >= 0 {
		t.Error("there are more clones than the box is said to have")
	}
}

// TestClonesHaveTheOptions sets each option to something unusual.
func TestClonesHaveTheOptions(t *testing.T) {
	f := newFast(t)
	type value struct {
		level, name int
		set         []byte
	}
	i32 := func(n int32) []byte { return []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)} }
	var values []value
	for _, v := range []struct{ level, name, n int }{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 9}, {unix.SOL_SOCKET, unix.SO_PRIORITY, 5}, {unix.SOL_SOCKET, unix.SO_MARK, 0x77},
		{unix.SOL_SOCKET, unix.SO_BUSY_POLL, 50}, {unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1 << 25}, {unix.SOL_SOCKET, unix.SO_SNDBUF, 50000},
		{unix.SOL_IP, unix.IP_TOS, 0x10}, {unix.SOL_IP, unix.IP_TTL, 33}, {unix.SOL_IP, unix.IP_MINTTL, 3}, {unix.SOL_IP, unix.IP_FREEBIND, 1},
		{unix.SOL_IP, unix.IP_TRANSPARENT, 1}, {unix.SOL_IP, unix.IP_RECVERR, 1}, {unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO},
		{unix.SOL_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_TCP, unix.TCP_MAXSEG, 900}, {unix.SOL_TCP, unix.TCP_KEEPIDLE, 77},
		{unix.SOL_TCP, unix.TCP_KEEPINTVL, 11}, {unix.SOL_TCP, unix.TCP_KEEPCNT, 4}, {unix.SOL_TCP, unix.TCP_SYNCNT, 3},
		{unix.SOL_TCP, unix.TCP_LINGER2, 20}, {unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 7}, {unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, 40000},
		{unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 5000}, {unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, 16384}, {unix.SOL_TCP, unix.TCP_FASTOPEN, 16},
		{unix.SOL_TCP, tcpSaveSyn, 1},
	} {
		values = append(values, value{v.level, v.name, i32(int32(v.n))})
	}
	values = append(values,
		value{unix.SOL_SOCKET, unix.SO_LINGER, append(i32(1), i32(5)...)},
		value{unix.SOL_SOCKET, unix.SO_RCVTIMEO_NEW, append(i32(3), make([]byte, 12)...)},
		value{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, append(i32(1<<20), 0, 0, 0, 0)},
		value{unix.SOL_SOCKET, unix.SO_BINDTODEVICE, []byte("lo\x00")},
		value{unix.SOL_TCP, unix.TCP_CONGESTION, []byte("reno")},
	)
	l := listener(t, func(fd int) (err error) {
		for _, v := range values {
			if e := setOption(fd, setting{option{v.level, v.name, len(v.set), 0}, v.set}); e != nil {
				err = errors.Join(err, fmt.Errorf("option %d of level %d: %w", v.name, v.level, e))
			}
		}
		return err
	})
	clone := take(t, mustSpawn(t, f, l).Box)
	for _, v := range values {
		name := map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF}[v.name]
		if name == 0 || v.level != unix.SOL_SOCKET {
			name = v.name
		}
		o := option{v.level, name, 16, 0}
		want, err := getOption(int(l.Fd()), o)
		got, gerr := getOption(clone, o)
		if err != nil || gerr != nil || string(got) != string(want) {
			t.Errorf("option %d of level %d: %x, %v, want %x, %v", name, v.level, got, gerr, want, err)
		}
	}
	if got, want := intOption(t, l, unix.SOL_SOCKET, soBufLock), lockSndBuf|lockRcvBuf; got != want {
		t.Errorf("SO_BUF_LOCK of the original is %d, want %d: the test shows nothing", got, want)
	}
	if got, err := unix.GetsockoptInt(clone, unix.SOL_SOCKET, soBufLock); got != lockSndBuf|lockRcvBuf {
		t.Errorf("SO_BUF_LOCK: %d, %v", got, err)
	}
}

func TestBoxIsRefilled(t *testing.T) {
	f := newFast(t)
	s := mustSpawn(t, f, listener(t))
	more := func() {
		t.Helper()
		if err := unix.Send(int(s.Box.Fd()), []byte{uapi.BoxMore}, unix.MSG_DONTWAIT); err != nil {
			t.Fatal(err)
		}
	}
	for range s.Size {
		take(t, s.Box)
	}
	more()
	waitFor(t, "a clone in place of one", func() bool { return take(t, s.Box) >= 0 })
	// Asking more often than taking makes no more than fit.
	for range 2 * s.Size {
		more()
	}
	time.Sleep(100 * time.Millisecond)
	n := 0
	for take(t, s.Box) >= 0 {
		n++
	}
	if n > s.Size {
		t.Errorf("%d clones in a box of %d", n, s.Size)
	}
}

func TestRefillsAreBounded(t *testing.T) {
	ended := make(chan struct{})
	p := pace{limit: 3, per: 50 * time.Millisecond}
	start := time.Now()
	for range 10 {
		if !p.wait(ended) {
			t.Fatal("ended")
		}
	}
	if took := time.Since(start); took < 3*p.per {
		t.Errorf("10 times took %v, want %v", took, 3*p.per)
	}
	close(ended)
	for p.wait(ended) {
		if time.Since(start) > 5*time.Second {
			t.Fatal("the end is not seen")
		}
	}
	var i issued
	for n := range uint64(5 * maxIssued) {
		i.add(n)
	}
	if len(i.known) != maxIssued || len(i.order) != maxIssued || !i.has(5*maxIssued-1) || i.has(1) {
		t.Errorf("%d clones are known, want the last %d", len(i.known), maxIssued)
	}
}

func TestBoxTakesNoDescriptors(t *testing.T) {
	f := newFast(t)
	s := mustSpawn(t, f, listener(t))
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := openFDs(t)
	err = unix.Sendmsg(int(s.Box.Fd()), []byte{uapi.BoxMore}, unix.UnixRights(int(null.Fd())), nil, unix.MSG_DONTWAIT)
	want := error(unix.EPERM)
	if _, e := unix.GetsockoptInt(int(s.Box.Fd()), unix.SOL_SOCKET, 83); e != nil {
		want = nil // before 6.16 there is no SO_PASSRIGHTS: it is dropped
	}
	if err != want {
		t.Errorf("got %v, want %v", err, want)
	}
	time.Sleep(50 * time.Millisecond)
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func TestGroupEndsWithItsBox(t *testing.T) {
	f := newFast(t)
	mustSpawn(t, f, listener(t)).Close() // what is made once is there now
	waitFor(t, "the group to end", func() bool { return len(f.all()) == 0 })
	l := listener(t)
	before := openFDs(t)
	s := mustSpawn(t, f, l)
	if n := len(f.all()); n != 1 {
		t.Errorf("%d groups, want 1", n)
	}
	s.Close()
	waitFor(t, "the group to end", func() bool { return len(f.all()) == 0 })
	waitFor(t, "as many descriptors as before", func() bool { return openFDs(t) <= before })
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watch != nil {
		t.Error("the watch goes on without groups")
	}
}

// What fails leaves the listener as it was, and nothing else.
func TestFailureLeavesTheListenerAlone(t *testing.T) {
	f := newFast(t)
	mustSpawn(t, f, listener(t)).Close() // what is made once is there now
	waitFor(t, "the group to end", func() bool { return len(f.all()) == 0 })
	before := openFDs(t)
	check := func(name string, l *os.File, want error) {
		t.Helper()
		s, err := f.Spawn(t.Context(), me(0), l)
		if s != nil || !errors.Is(err, want) {
			t.Errorf("%s: got %v, %v, want %v", name, s, err, want)
		}
		if intOption(t, l, unix.SOL_SOCKET, unix.SO_REUSEPORT) != 0 {
			t.Errorf("%s: the listener has SO_REUSEPORT", name)
		}
		l.Close()
		if n := len(f.all()); n != 0 {
			t.Errorf("%s: %d groups", name, n)
		}
		if n := openFDs(t); n > before {
			t.Errorf("%s: %d descriptors, before %d", name, n, before)
		}
	}
	check("filter", listener(t, func(fd int) error {
		pass := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &pass})
	}), unix.EOPNOTSUPP)
	l := listener(t)
	if err := unix.Listen(int(l.Fd()), 1); err != nil {
		t.Fatal(err)
	}
	check("listens alone", l, unix.EINVAL)
	if f.migrate.prog == nil {
		t.Skip("no BPF")
	}
	whole := f.migrate
	f.migrate.prog, _ = whole.prog.Clone()
	f.migrate.prog.Close()
	check("program", listener(t), unix.EBADF)
	f.migrate = whole
}

func TestGroupsAreCounted(t *testing.T) {
	f := newFast(t)
	var last *stacknode.Spawned
	for i := range groupsPerUser {
		s, err := f.Spawn(t.Context(), me(4711), listener(t))
		if err != nil {
			t.Fatalf("group %d: %v", i, err)
		}
		t.Cleanup(func() { s.Close() })
		last = s
	}
	if _, err := f.Spawn(t.Context(), me(4711), listener(t)); !errors.Is(err, unix.EMFILE) {
		t.Errorf("one more: got %v, want EMFILE", err)
	}
	if _, err := f.Spawn(t.Context(), me(4713), listener(t)); err != nil {
		t.Errorf("another user: %v", err)
	}
	last.Close()
	waitFor(t, "room for a group", func() bool {
		s, err := f.Spawn(t.Context(), me(4711), listener(t))
		if err != nil {
			return false
		}
		s.Close()
		return true
	})
}

// A port that only root may have is no way to another one.
func TestClonesHaveThePortOfTheOriginal(t *testing.T) {
	f := newFast(t)
	l := listener(t)
	other := &stacknode.Caller{PID: os.Getpid(), TID: os.Getpid(), UID: 4711, RealUID: 4711}
	if _, err := f.Spawn(t.Context(), other, l); !errors.Is(err, unix.EPERM) {
		t.Errorf("a user with root's listener: got %v, want EPERM", err)
	}
	if err := unix.Fchown(int(l.Fd()), 4711, 4711); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Spawn(t.Context(), other, l); err != nil {
		t.Errorf("his own: %v", err)
	} else {
		s.Close()
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unbound := os.NewFile(uintptr(fd), "unbound")
	defer unbound.Close()
	if _, err := f.Spawn(t.Context(), me(0), unbound); !errors.Is(err, unix.EINVAL) {
		t.Errorf("not bound: got %v, want EINVAL", err)
	}
}
