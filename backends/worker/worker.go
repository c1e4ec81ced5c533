package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// A Config says where a Worker makes its sockets.
type Config struct {
	// NetNS is the namespace; nil means the daemon's own. New keeps a copy.
	NetNS    *os.File
	Families stacknode.FamilySet
	Grants   []stacknode.Grant
	// OnlySelf refuses callers that are in another namespace, and lets
	// those under a run make their sockets themselves.
	OnlySelf bool
	// Makes tells, with OnlySelf, whether the worker makes a socket that the
	// thread tid could make itself; nil: never.
	Makes func(tid, domain, typ, proto int) bool
	// Made is called with each internet stream socket that was made, before
	// anybody has it, with the daemon's rights; nil: nothing is.
	Made func(fd int)
	// NoMPTCP refuses IPPROTO_MPTCP with EPROTONOSUPPORT.
	NoMPTCP bool
	// Gone makes every request fail with stacknode.ErrClosed.
	Gone bool
	Env
}

// An Env is what all workers of a daemon share.
type Env struct {
	Log *slog.Logger
	// Slots are the records by which calls in flight outlive the daemon;
	// nil: ServeRun is not supported.
	Slots Slots
}

// A Worker makes the sockets of one namespace.
type Worker struct {
	cfg    Config
	ns     *os.File // nil: the daemon's own
	id     stacknode.NSID
	cookie atomic.Uint64

	draining atomic.Bool
	calls    sync.WaitGroup // calls on other threads than the loop's

	mu     sync.Mutex // guards the fields below
	closed bool
	loop   *loop          // of the channels; nil until the first
	runs   map[*loop]bool // one for each run
}

// New returns a Worker for the namespace of cfg.
func New(cfg Config) (*Worker, error) {
	w := &Worker{cfg: cfg}
	var err error
	if cfg.NetNS == nil {
		if w.ns, err = os.Open("/proc/self/ns/net"); err != nil {
			return nil, err
		}
		w.id, err = peer.NSFileID(w.ns)
		w.ns.Close()
		w.ns = nil
	} else {
		if w.ns, err = dup(cfg.NetNS); err != nil {
			return nil, err
		}
		w.id, err = peer.NSFileID(w.ns)
	}
	if err == nil {
		err = w.Do(func() error {
			c, err := netnsCookie()
			w.cookie.Store(c)
			return err
		})
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// NetNS returns the namespace and the SO_NETNS_COOKIE of its sockets, 0 on
// kernels before 5.14.
func (w *Worker) NetNS() (stacknode.NSID, uint64) { return w.id, w.cookie.Load() }

// Families returns the address families that the worker makes.
func (w *Worker) Families() stacknode.FamilySet { return w.cfg.Families }

// Counts returns the number of open channels and runs.
func (w *Worker) Counts() (channels, runs int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loop != nil {
		channels = int(w.loop.channels.Load())
	}
	return channels, len(w.runs)
}

// Drain makes new requests fail with stacknode.ErrClosed while on.
func (w *Worker) Drain(on bool) { w.draining.Store(on) }

// refuses tells whether the worker makes no more sockets.
func (w *Worker) refuses() bool { return w.cfg.Gone || w.draining.Load() }

// Do runs fn on a thread inside the namespace, with the daemon's own
// rights. fn makes raw system calls and returns; it starts no goroutine.
// Returns stacknode.ErrClosed after Close.
func (w *Worker) Do(fn func() error) error {
	if err := w.enter(); err != nil {
		return err
	}
	defer w.calls.Done()
	return onThread(w.ns, nil, 0, fn)
}

func (w *Worker) enter() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return stacknode.ErrClosed
	}
	w.calls.Add(1)
	return nil
}

// Socket makes a socket with the identity of caller and with no more
// rights than caller has over the namespace or was granted. See
// stacknode.Backend.
func (w *Worker) Socket(ctx context.Context, caller *stacknode.Caller, domain, typ, proto int) (*os.File, error) {
	fd, err := w.socket(caller, domain, typ, proto)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// socket returns a descriptor that the caller of it owns.
func (w *Worker) socket(caller *stacknode.Caller, domain, typ, proto int) (fd int, err error) {
	if w.refuses() {
		return -1, stacknode.ErrClosed
	}
	if err := w.lacks(domain, proto); err != nil {
		return -1, err
	}
	if err := w.enter(); err != nil {
		return -1, err
	}
	defer w.calls.Done()

	fd = -1 // also when nothing is made
	create := func() error {
		fd, err = rawSocket(domain, typ|unix.SOCK_CLOEXEC, proto)
		return err
	}
	if plain(domain, typ, proto) {
		err = onThisThread(w.ns, &stacknode.Identity{UID: caller.UID, GID: caller.GID}, create)
	} else {
		err = w.special(caller, domain, typ, proto, create)
	}
	if err != nil && fd >= 0 {
		// The socket was made but its thread could not go home.
		unix.Close(fd)
		return -1, err
	}
	if err == nil && w.tells(domain, typ) {
		w.cfg.Made(fd)
	}
	return fd, err
}

// tells tells whether the stack is told of such sockets.
func (w *Worker) tells(domain, typ int) bool {
	internet := domain == unix.AF_INET || domain == unix.AF_INET6
	return w.cfg.Made != nil && internet && typ&sockTypeMask == unix.SOCK_STREAM
}

// lacks returns the error for a socket that the stack has not.
func (w *Worker) lacks(domain, proto int) error {
	switch {
	case !w.cfg.Families.Has(domain):
		return stacknode.ErrNotSupported
	case w.cfg.NoMPTCP && proto == unix.IPPROTO_MPTCP:
		return unix.EPROTONOSUPPORT
	}
	return nil
}

// special makes a socket that asks for rights, or for a module of the
// kernel, by fn.
func (w *Worker) special(caller *stacknode.Caller, domain, typ, proto int, fn func() error) error {
	d, err := caller.Look()
	if err != nil {
		return err
	}
	caps, err := w.rights(d, domain, typ)
	if err != nil {
		return err
	}
	return onThread(w.ns, &d.Identity, caps, fn)
}

// rights returns the capabilities that the thread making the socket may
// raise: those that the kernel asks for when such a socket is created and
// that the caller has over the namespace, or was granted.
func (w *Worker) rights(caller *stacknode.Details, domain, typ int) (stacknode.CapSet, error) {
	var want stacknode.CapSet
	switch kind := typ & sockTypeMask; {
	case domain == unix.AF_PACKET, kind == unix.SOCK_RAW && domain != unix.AF_NETLINK:
		want = stacknode.CapNetRaw
	case domain == unix.AF_NETLINK && caller.SameUserNS:
		// netlink looks at the credentials of who opened the socket besides
		// those of who writes to it (netlink_ns_capable). One opened with a
		// capability here counts in every namespace, so only who has that
		// here gets it. A caller of another user namespace gets a socket
		// that reads only; who made the one that owns the stack's needs
		// nothing more than the effective uid.
		want = stacknode.CapNetAdmin & caller.Caps
	default:
		return 0, nil
	}
	has, err := w.CapsOver(caller)
	if err != nil {
		return 0, err
	}
	for _, g := range w.cfg.Grants {
		if g.Covers(caller.Identity) && (g.Packet && domain == unix.AF_PACKET || g.Raw && domain != unix.AF_PACKET) {
			has |= stacknode.CapNetRaw
		}
	}
	if want == stacknode.CapNetRaw && has&want == 0 {
		return 0, stacknode.ErrNoGrant
	}
	return want & has, nil
}

// CapsOver returns the capabilities that caller has over the user namespace
// that owns the worker's.
func (w *Worker) CapsOver(caller *stacknode.Details) (caps stacknode.CapSet, err error) {
	err = w.withNetNS(func(f *os.File) error {
		caps, err = caller.CapsOver(f)
		return err
	})
	return caps, err
}

// Ours tells whether the daemon's own user namespace owns the worker's
// network namespace.
func (w *Worker) Ours() (ours bool, err error) {
	err = w.withNetNS(func(f *os.File) error {
		ours, err = peer.OwnsNetNS(f)
		return err
	})
	return ours, err
}

// withNetNS calls fn with the namespace, which fn borrows. Returns
// stacknode.ErrClosed after Close.
func (w *Worker) withNetNS(fn func(f *os.File) error) error {
	if err := w.enter(); err != nil {
		return err
	}
	defer w.calls.Done()
	if w.ns != nil {
		return fn(w.ns)
	}
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer own.Close()
	return fn(own)
}

// closePatience is how long Close waits for calls on threads in the namespace.
// They take no time, except those that wait for the lock of a socket: its owner
// can keep that for as long as he likes.
const closePatience = 5 * time.Second

// Close ends every channel and run and waits until no thread is left in
// the namespace, but for those that are stuck in the kernel.
func (w *Worker) Close() error {
	w.mu.Lock()
	w.closed = true
	var loops []*loop
	if w.loop != nil {
		loops = append(loops, w.loop)
	}
	for l := range w.runs {
		loops = append(loops, l)
	}
	w.mu.Unlock()
	var err error
	for _, l := range loops {
		err = errors.Join(err, l.close())
	}
	if !w.idle(closePatience) && w.cfg.Log != nil {
		w.cfg.Log.Warn("a thread is left in the namespace of a stack: the owner of a socket keeps its lock", "netns", w.id)
	}
	if w.ns != nil {
		if cerr := w.ns.Close(); !errors.Is(cerr, os.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	return err
}

// idle waits for calls. It returns false if some have not ended in time.
func (w *Worker) idle(patience time.Duration) bool {
	done := make(chan struct{})
	go func() {
		w.calls.Wait()
		close(done)
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// startLoop returns the worker's loop, started.
func (w *Worker) startLoop() (*loop, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, stacknode.ErrClosed
	}
	if w.loop == nil {
		l, err := newLoop(w)
		if err != nil {
			return nil, fmt.Errorf("thread of the stack: %w", err)
		}
		w.loop = l
	}
	return w.loop, nil
}

// ServeChannel answers requests on conn with the identity of caller. See
// stacknode.ChannelServer.
func (w *Worker) ServeChannel(conn *os.File, caller *stacknode.Caller, release func()) error {
	l, err := w.startLoop()
	if err == nil {
		err = l.addChannel(conn, caller, release)
	}
	if err != nil {
		conn.Close()
		release()
	}
	return err
}

// ServeRun answers the socket calls of a process tree. See
// stacknode.RunServer.
func (w *Worker) ServeRun(run *stacknode.Run) error {
	if w.cfg.Slots == nil {
		return fmt.Errorf("stackfs run is off: %w", errors.ErrUnsupported)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return stacknode.ErrClosed
	}
	l, err := newLoop(w)
	if err != nil {
		return fmt.Errorf("thread of the run: %w", err)
	}
	if err := l.addRun(run); err != nil {
		return errors.Join(err, l.close())
	}
	if w.runs == nil {
		w.runs = map[*loop]bool{}
	}
	w.runs[l] = true
	return nil
}

// runEnded forgets the loop of a run, which ends.
func (w *Worker) runEnded(l *loop) {
	w.mu.Lock()
	delete(w.runs, l)
	w.mu.Unlock()
	l.signalEnd()
}
