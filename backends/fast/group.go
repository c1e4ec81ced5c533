package fast

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// maxBox bounds how many clones wait in a box.
const maxBox = 256

// boxSize is how many clones wait in a box: for the workers of one generation
// and, while these end, for those of the next.
func boxSize() int { return min(2*runtime.NumCPU(), maxBox) }

// An original is the listener that clones are made of, as it was.
type original struct {
	cookie   uint64
	shared   bool // it had SO_REUSEPORT
	uid, gid uint32
	family   int
	addr     unix.Sockaddr
	settings []setting
}

// A group is a listener and its clones.
type group struct {
	fast    *Fast
	origin  original
	page    *page
	release func() // of the quota
	size    int
	ended   chan struct{} // closed by close

	mu     sync.Mutex // guards the fields below
	box    *os.File   // our end of it; nil: closed
	unread int        // bytes of the box that one clone takes, by SIOCOUTQ
	clones issued
	stuck  map[uint64]suspect
	noted  string // by the watch, for status
}

// Spawn implements stacknode.Spawner.
func (f *Fast) Spawn(ctx context.Context, caller *stacknode.Caller, sock *os.File) (spawned *stacknode.Spawned, err error) {
	if err := checkCgroup(caller.TID); err != nil {
		return nil, err
	}
	release, err := f.quota.Acquire(caller.RealUID)
	if err != nil {
		return nil, err
	}
	g := &group{fast: f, release: release, size: boxSize(), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			g.close()
			f.drop(g)
		}
	}()
	cerr := control(sock, func(fd int) {
		err = f.Do(func() (err error) {
			g.origin, err = f.inspect(fd, caller)
			return err
		})
		if err != nil {
			return
		}
		if spawned, err = g.open(fd); err != nil {
			g.origin.leave(fd)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, err
	}
	if err = f.add(g); err != nil {
		spawned.Close()
		return nil, err
	}
	f.log.Debug("listener has clones", "address", g.address(), "uid", g.origin.uid, "clones", g.size)
	return spawned, nil
}

// inspect checks that clones may be made of fd for caller, and prepares it.
// It runs in the namespace of the stack.
func (f *Fast) inspect(fd int, caller *stacknode.Caller) (o original, err error) {
	if err := f.checkKind(fd, &o); err != nil {
		return o, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return o, os.NewSyscallError("fstat", err)
	}
	if o.uid, o.gid = st.Uid, st.Gid; o.uid != caller.UID && caller.UID != 0 {
		return o, fmt.Errorf("the listener is of user %d: %w", o.uid, unix.EPERM)
	}
	if o.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return o, os.NewSyscallError("getsockopt SO_COOKIE", err)
	}
	if err := checkBound(fd, &o); err != nil {
		return o, err
	}
	fresh, err := unix.Socket(o.family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return o, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fresh)
	o.settings, err = settings(fd, fresh, o.family)
	return o, err
}

// join makes fd, which is the original, one that others may share its address
// with.
func (o *original) join(fd int) error {
	return os.NewSyscallError("setsockopt SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}

// leave undoes join: the program goes on as it would without clones.
func (o *original) leave(fd int) {
	if !o.shared {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
	}
}

// checkKind checks that fd is a TCP socket of this stack.
func (f *Fast) checkKind(fd int, o *original) error {
	var values [3]int
	for i, name := range []int{unix.SO_DOMAIN, unix.SO_TYPE, unix.SO_PROTOCOL} {
		v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		values[i] = v
	}
	o.family = values[0]
	switch {
	case o.family != unix.AF_INET && o.family != unix.AF_INET6 || values[1] != unix.SOCK_STREAM:
		return fmt.Errorf("no TCP socket: %w", unix.EPROTOTYPE)
	case values[2] == unix.IPPROTO_MPTCP:
		return fmt.Errorf("a listener of MPTCP cannot have clones: %w", unix.EPROTONOSUPPORT)
	case values[2] != unix.IPPROTO_TCP:
		return fmt.Errorf("no TCP socket: %w", unix.EPROTOTYPE)
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
	}
	if _, ours := f.NetNS(); cookie != ours {
		return fmt.Errorf("the listener is of another network namespace: %w", unix.EXDEV)
	}
	return nil
}

// checkBound checks that fd is bound and about to listen, or listens in a
// group already.
func checkBound(fd int, o *original) error {
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	if o.addr = addr; sockaddrPort(addr).Port() == 0 {
		return fmt.Errorf("the socket is not bound: %w", unix.EINVAL)
	}
	if _, err := unix.Getpeername(fd); err == nil {
		return fmt.Errorf("the socket is connected: %w", unix.EINVAL)
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_ACCEPTCONN", err)
	}
	reuse, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_REUSEPORT", err)
	}
	if o.shared = reuse != 0; listens != 0 && !o.shared {
		return fmt.Errorf("the socket listens without SO_REUSEPORT: %w", unix.EINVAL)
	}
	return nil
}

// open makes box and page, fills the box and makes fd, the original, one of
// the group.
func (g *group) open(fd int) (s *stacknode.Spawned, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	g.box = os.NewFile(uintptr(pair[0]), "box")
	s = &stacknode.Spawned{Box: os.NewFile(uintptr(pair[1]), "box"), Size: g.size}
	defer func() {
		if err != nil {
			s.Close()
			s = nil
		}
	}()
	if err := peer.RefuseRights(pair[0]); err != nil {
		return s, err
	}
	if g.page, s.Page, err = newPage(g.fast.spec.Fast.Spawn); err != nil {
		return s, err
	}
	if err := g.origin.join(fd); err != nil {
		return s, err
	}
	for range g.size {
		if err := g.put(); err != nil {
			return s, err
		}
	}
	g.fast.tag(fd)
	return s, g.fast.migrate.attach(fd)
}

// put makes a clone and puts it into the box, if that is not full.
func (g *group) put() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.box == nil {
		return stacknode.ErrClosed
	}
	waiting, err := unread(g.box)
	if err != nil {
		return err
	}
	if g.unread > 0 && waiting >= g.unread*g.size {
		return nil
	}
	fd, cookie, err := g.clone()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	msg, err := (&uapi.Clone{Cookie: cookie}).MarshalBinary()
	if err != nil {
		return err
	}
	var serr error
	err = control(g.box, func(box int) {
		serr = unix.Sendmsg(box, msg, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	if serr == unix.EPIPE || serr == unix.ECONNRESET {
		return stacknode.ErrClosed // who had the other end is gone
	}
	if err = errors.Join(err, os.NewSyscallError("sendmsg", serr)); err != nil {
		return err
	}
	g.clones.add(cookie)
	if g.unread == 0 {
		g.unread, err = unread(g.box)
	}
	return err
}

// unread returns how many bytes, by the kernel's accounting, wait at the
// other end of f.
func unread(f *os.File) (n int, err error) {
	cerr := control(f, func(fd int) { n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ) })
	return n, errors.Join(cerr, os.NewSyscallError("ioctl SIOCOUTQ", err))
}

// clone makes a socket like the original, of its owner, bound and not
// listening. The kernel joins sockets into a group by the owner.
func (g *group) clone() (fd int, cookie uint64, err error) {
	err = g.fast.Do(func() (err error) {
		fd, err = unix.Socket(g.origin.family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if cookie, err = g.dress(fd); err != nil {
			unix.Close(fd)
		}
		return err
	})
	return fd, cookie, err
}

func (g *group) dress(fd int) (cookie uint64, err error) {
	o := &g.origin
	if err := unix.Fchown(fd, int(o.uid), int(o.gid)); err != nil {
		return 0, os.NewSyscallError("fchown", err)
	}
	if err := apply(fd, o.settings); err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return 0, os.NewSyscallError("setsockopt SO_REUSEPORT", err)
	}
	g.fast.tag(fd)
	if err := unix.Bind(fd, o.addr); err != nil {
		return 0, fmt.Errorf("bind a clone to %s: %w", g.address(), err)
	}
	cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	return cookie, os.NewSyscallError("getsockopt SO_COOKIE", err)
}

// serve puts a clone into the box for each that was taken, until the last
// copy of its other end is closed.
func (g *group) serve() {
	g.mu.Lock()
	box := g.box
	g.mu.Unlock()
	pace := pace{limit: refills * g.size, per: time.Second}
	for b := make([]byte, 16); box != nil; {
		n, err := box.Read(b)
		if err != nil || n == 0 {
			break
		}
		if b[0] != uapi.BoxMore {
			continue
		}
		if !pace.wait(g.ended) {
			break
		}
		if err := g.put(); err != nil {
			if !errors.Is(err, stacknode.ErrClosed) {
				g.fast.log.Warn("no more clones of a listener", "address", g.address(), "err", err)
			}
			break
		}
	}
	g.close()
	g.fast.drop(g)
}

// close gives everything back. Clones that were taken go on.
func (g *group) close() {
	g.mu.Lock()
	box := g.box
	g.box = nil
	g.mu.Unlock()
	if box != nil {
		close(g.ended)
		box.Close()
	}
	if g.page != nil {
		g.page.close()
	}
	g.release()
}

// has tells whether a socket is a clone of the group.
func (g *group) has(cookie uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.clones.has(cookie)
}

// suspect counts that the worker of a clone has left its queue alone, and
// tells whether it is stuck.
func (g *group) suspect(s slotView) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	accepted := s.local + s.remote
	last, known := g.stuck[s.clone]
	if !known || last.accepted != accepted {
		last = suspect{accepted: accepted}
	}
	last.looks++
	if g.stuck == nil {
		g.stuck = map[uint64]suspect{}
	}
	g.stuck[s.clone] = last
	return last.looks >= stuckLooks
}

// clear forgets which clones were suspected, but for those in keep.
func (g *group) clear(keep map[uint64]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.stuck, func(cookie uint64, _ suspect) bool { return !keep[cookie] })
}

func (g *group) note(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noted = text
}

// watched returns what the watch did last.
func (g *group) watched() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.noted
}

// address returns where the group listens.
func (g *group) address() netip.AddrPort { return sockaddrPort(g.origin.addr) }

func sockaddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// control calls fn with the number of f, which cannot be closed meanwhile.
func control(f *os.File, fn func(fd int)) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { fn(int(fd)) })
}
