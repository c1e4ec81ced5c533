package conns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// userCaller is a process of a user's: in the daemon's user namespace, without
// capabilities there and with caps over the stack's.
func userCaller(uid uint32, caps stacknode.CapSet) *stacknode.Caller {
	return &stacknode.Caller{
		PID: 1 << 22, UID: uid, GID: uid, RealUID: uid, RealGID: uid,
		Look: func() (*stacknode.Details, error) {
			self, err := peer.Self()
			return &stacknode.Details{
				Identity: stacknode.Identity{UID: uid, GID: uid}, UserNS: self.UserNS, SameUserNS: true,
				CapsOver: func(*os.File) (stacknode.CapSet, error) { return caps, nil },
			}, err
		},
	}
}

// holder starts a process of a user's that holds fd and nothing else.
func holder(t *testing.T, uid uint32, fd int) (pid int) {
	t.Helper()
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(copied), "held")
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func find(t *testing.T, s *Stack, cookie uint64) *socket {
	t.Helper()
	sock, err := s.tables.find(testContext(t), cookie)
	if err != nil {
		t.Fatal(err)
	}
	return sock
}

func TestWhoMayTouchAConnection(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	may := func(caller *stacknode.Caller, sock *socket) error {
		_, err := s.mayTouch(ctx, caller, sock)
		return err
	}
	p := connect(t, w, "127.0.0.1:4001")
	sock := find(t, s, cookieOf(t, p.client))
	var refused *stacknode.HolderError
	// We are root, and have the part of the daemon that holds it, too.
	if err := may(userCaller(1000, 0), sock); !errors.As(err, &refused) || refused.PID != os.Getpid() {
		t.Errorf("held by the daemon: got %v", err)
	}
	if err := may(self(t), sock); err != nil {
		t.Errorf("root: %v", err)
	}
	holder(t, 1000, p.client)
	if err := may(userCaller(1000, 0), sock); !errors.As(err, &refused) || refused.PID != os.Getpid() {
		t.Errorf("held by the user and the daemon: got %v", err)
	}
	closeFD(&p.client)
	if err := may(userCaller(1000, 0), sock); err != nil {
		t.Errorf("the user's own: %v", err)
	}
	if err := may(userCaller(1001, ^stacknode.CapSet(0)), sock); !errors.As(err, &refused) || refused.Command != "sleep" || !errors.Is(err, unix.EPERM) {
		t.Errorf("another user who owns the network: got %v", err)
	}

	s.cfg.Grants = []stacknode.Grant{{UIDs: []uint32{1001}, Raw: true}, {GIDs: []uint32{1002}, Checkpoint: true}}
	if err := may(userCaller(1001, 0), sock); !errors.Is(err, unix.EPERM) {
		t.Errorf("a grant of something else: got %v", err)
	}
	if tracer, err := s.mayTouch(ctx, userCaller(1002, 0), sock); err != nil || !tracer.All() {
		t.Errorf("a grant: got %+v, %v", tracer, err)
	}
	s.cfg.OnlySelf = true
	for _, c := range []*stacknode.Caller{userCaller(1000, 0), userCaller(1002, 0), self(t)} {
		if err := may(c, sock); !errors.Is(err, stacknode.ErrForeign) {
			t.Errorf("uid %d in another network namespace: got %v, want ErrForeign", c.UID, err)
		}
	}
}

func TestWhoMayTouchAConnectionThatIsNotAccepted(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	user := userCaller(1000, 0)
	f, err := w.Socket(ctx, user, unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	listener := int(f.Fd())
	if err := errors.Join(unix.Bind(listener, &unix.SockaddrInet4{Port: 4001, Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(listener, 4)); err != nil {
		t.Fatal(err)
	}
	holder(t, 1000, listener)
	f.Close()
	connectOnly(t, w, "127.0.0.1:4001")
	list, err := s.Conns(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var child *socket
	for _, c := range list {
		if c.Inode == 0 && c.State == "established" {
			child = find(t, s, c.Cookie)
		}
	}
	if child == nil || child.uid != 1000 && child.uid != 0 {
		t.Fatalf("no child of uid 1000 in %+v", list)
	}
	may := func(c *stacknode.Caller) error {
		_, err := s.mayTouch(ctx, c, child)
		return err
	}
	if child.uid == 0 { // kernels before 6.17 do not tell whose it is
		if err := may(user); !errors.Is(err, errUnheld) {
			t.Errorf("owner unknown: got %v, want errUnheld", err)
		}
		child.uid = 1000
	}
	if err := may(user); err != nil {
		t.Errorf("the owner of the listener: %v", err)
	}
	if err := may(self(t)); err != nil {
		t.Errorf("root: %v", err)
	}
	if err := may(userCaller(1001, 0)); !errors.Is(err, errUnheld) {
		t.Errorf("another user: got %v, want errUnheld", err)
	}
	child.sport++
	if err := may(user); !errors.Is(err, errUnheld) {
		t.Errorf("nobody listens: got %v, want errUnheld", err)
	}
	child.sport--
	listen(t, w, "127.0.0.2:4001") // ours
	if err := may(user); !errors.Is(err, unix.EPERM) {
		t.Errorf("root listens on that port too: got %v, want EPERM", err)
	}
	for _, state := range []soccr.State{soccr.FinWait1, soccr.FinWait2, soccr.Closing, soccr.LastAck} {
		child.state = state
		if err := may(user); !errors.Is(err, errUnheld) {
			t.Errorf("its owner has closed it (%v): got %v, want errUnheld", state, err)
		}
	}
	child.state = soccr.Established
	child.timer = timerTimeWait
	if err := may(user); !errors.Is(err, errUnheld) {
		t.Errorf("it has ended: got %v, want errUnheld", err)
	}
}

func TestWhoMayRestore(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	_, here := w.NetNS()
	seal := func(c *soccr.Conn, uid uint32, netns uint64, stack string) *image.Image {
		t.Helper()
		opts, err := s.env.Seals.options(uid, netns, stack)
		if err != nil {
			t.Fatal(err)
		}
		return mustImage(t, c, opts)
	}
	high, low := someConn("192.0.2.1:5000"), someConn("192.0.2.1:80")
	bare := mustImage(t, high, image.Options{})
	foreign := mustImage(t, high, image.Options{Seal: &image.Seal{UID: 1000, NetNS: here}, Key: make([]byte, image.KeySize)})
	user := userCaller(1000, 0)
	outside := userCaller(1000, stacknode.CapNetAdmin)
	look := outside.Look
	outside.Look = func() (*stacknode.Details, error) {
		d, err := look()
		d.SameUserNS = false
		return d, err
	}
	s.cfg.RestoreFrom = []string{"friend"}
	s.cfg.Grants = []stacknode.Grant{{UIDs: []uint32{1002}, Checkpoint: true}}

	for _, tt := range []struct {
		name   string
		caller *stacknode.Caller
		img    *image.Image
		want   permit
		err    error
		text   string
	}{
		{"not sealed", user, bare, permit{}, unix.EPERM, "this one is not"},
		{"not sealed, by who owns the network", userCaller(1000, stacknode.CapNetAdmin), bare, permit{trusted: true}, nil, ""},
		{"not sealed, by who owns the network from a user namespace", outside, bare, permit{}, nil, ""},
		{"not sealed, by a grant", userCaller(1002, 0), bare, permit{}, nil, ""},
		{"sealed", user, seal(high, 1000, here, "lab"), permit{once: true, trusted: true}, nil, ""},
		{"sealed elsewhere", user, foreign, permit{}, unix.EPERM, "not one of this installation"},
		{"sealed for another", user, seal(high, 1001, here, "lab"), permit{}, unix.EPERM, "for uid 1001"},
		{"sealed for root", user, seal(high, 0, here, "lab"), permit{}, unix.EPERM, "for uid 0"},
		{"another network", user, seal(high, 1000, here+1, "lab"), permit{}, unix.EPERM, "restore_from"},
		{"of no network", user, seal(high, 1000, 0, "lab"), permit{}, unix.EPERM, "restore_from"},
		{"of a stack of restore_from", user, seal(high, 1000, here+1, "friend"), permit{once: true, trusted: true}, nil, ""},
		{"a low port", user, seal(low, 1000, here, "lab"), permit{}, unix.EACCES, "CAP_NET_BIND_SERVICE"},
		{"a low port with the capability", userCaller(1000, stacknode.CapNetBindService), seal(low, 1000, here, "lab"), permit{once: true, trusted: true}, nil, ""},
	} {
		got, err := s.mayRestore(tt.caller, tt.img)
		if got != tt.want || !errors.Is(err, tt.err) || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %+v, %v, want %+v, %v %q", tt.name, got, err, tt.want, tt.err, tt.text)
		}
	}
	// Where the sysctl says so, low ports are anybody's.
	if err := w.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("80"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.mayRestore(user, seal(low, 1000, here, "lab")); err != nil {
		t.Errorf("port 80 where that is not privileged: %v", err)
	}
	s.cfg.OnlySelf = true
	for _, c := range []*stacknode.Caller{user, userCaller(1002, 0), userCaller(0, ^stacknode.CapSet(0))} {
		if _, err := s.mayRestore(c, seal(high, 1000, here, "lab")); !errors.Is(err, stacknode.ErrForeign) {
			t.Errorf("uid %d from another network: got %v, want ErrForeign", c.UID, err)
		}
	}
}

// Whoever owns a network namespace by a user namespace of his own could have
// any connection there sealed, and then restore it where it counts.
func TestNothingIsSealedInAUserNamespace(t *testing.T) {
	requireRoot(t)
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: 1000, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: 1000, Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	w := newWorker(t, ns)
	s := newStack(t, w, ModeOff)
	_, here := w.NetNS()
	user := userCaller(1000, 0)
	if opts := s.seal(user); opts.Seal != nil || opts.Key != nil {
		t.Errorf("got a seal: %+v", opts.Seal)
	}
	opts, err := s.env.Seals.options(1000, here, "lab")
	if err != nil {
		t.Fatal(err)
	}
	img := mustImage(t, someConn("192.0.2.1:5000"), opts)
	if _, err := s.mayRestore(user, img); !errors.Is(err, unix.EPERM) {
		t.Errorf("without the capability: got %v, want EPERM", err)
	}
	if got, err := s.mayRestore(userCaller(1000, stacknode.CapNetAdmin), img); err != nil || got.once {
		t.Errorf("its owner: got %+v, %v", got, err)
	}
	ours := newStack(t, newWorker(t, newNetNS(t)), ModeOff)
	if opts := ours.seal(user); opts.Seal == nil || opts.Seal.UID != 1000 || opts.Seal.Stack != "lab" || opts.Seal.NetNS == 0 {
		t.Errorf("a namespace of the daemon's: got %+v", opts.Seal)
	}
}

func TestTame(t *testing.T) {
	c := someConn("192.0.2.1:5000")
	c.Options = soccr.Options{"SO_RCVBUF": 1 << 30, "SO_SNDBUF": 5000, "SO_BUSY_POLL": 7, "TCP_NODELAY": 1}
	c.Congestion = "no-such-module"
	tame(c)
	limit, err := readNumber("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Fatal(err)
	}
	if c.Options["SO_RCVBUF"] != 2*limit || c.Options["SO_SNDBUF"] != 5000 || len(c.Options) != 3 || c.Congestion != "" {
		t.Errorf("got %v, congestion %q", c.Options, c.Congestion)
	}
	c.Congestion = "reno" // always there
	if tame(c); c.Congestion != "reno" {
		t.Errorf("reno: got %q", c.Congestion)
	}
}
