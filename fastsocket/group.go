package fastsocket

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// When steering is let go and taken back. A fair share is that of one CPU
// where all have as many.
const (
	window          = 50 * time.Millisecond
	windowConns     = 64  // fewer tell nothing
	skewedShares    = 1.5 // of a fair share on the busiest CPU
	balancedShares  = 1.2
	skewedWindows   = 2
	balancedWindows = 4
	sampleEvery     = 8 // connections whose CPU is asked for while steering is off
)

// A Listener is the member of a group for one CPU.
type Listener struct {
	*net.TCPListener
	CPU int

	raw      syscall.RawConn
	arrived  atomic.Uint64 // connections on the CPU, whoever accepted them
	accepted atomic.Uint64
	group    *Group
}

// tag sets the CPU that the listener is for, or none.
func (l *Listener) tag(on bool) error {
	cpu := -1
	if on {
		cpu = l.CPU
	}
	return setOption(l.raw, unix.SO_INCOMING_CPU, cpu)
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptTCP is Accept for who wants a *net.TCPConn.
func (l *Listener) AcceptTCP() (*net.TCPConn, error) {
	c, err := l.TCPListener.AcceptTCP()
	if err == nil && l.group != nil {
		l.group.accepted(l, c)
	}
	return c, err
}

// A Group is the listeners of one address. Its methods can be called from
// several goroutines.
type Group struct {
	members []*Listener
	stop    chan struct{}
	once    sync.Once

	steered atomic.Bool
	since   atomic.Int64 // of steered, nanoseconds
}

// Listeners returns the members, one for each CPU. Who does not call Serve
// accepts from each of them, all the time: the kernel gives each its
// connections, and does not ask whether anybody takes them.
func (g *Group) Listeners() []*Listener { return g.members }

// Addr returns the address of all members.
func (g *Group) Addr() net.Addr { return g.members[0].Addr() }

// Steered tells whether connections go to the listener of their CPU, and
// since when that is so. Only while Serve runs it changes.
func (g *Group) Steered() (on bool, since time.Time) {
	return g.steered.Load(), time.Unix(0, g.since.Load())
}

// Serve accepts from every member, on a thread bound to its CPU, and calls
// handle on a goroutine of its own for each connection, which handle closes.
// It returns nil after Close, or the first error of an accept, with the group
// closed. Call it once.
func (g *Group) Serve(handle func(net.Conn)) error {
	g.steer(true)
	for _, l := range g.members {
		l.group = g
	}
	errs := make(chan error, len(g.members))
	for _, l := range g.members {
		go func() { errs <- l.serve(handle) }()
	}
	done := make(chan struct{})
	go g.watch(done)
	var first error
	for range g.members {
		if err := <-errs; err != nil && !errors.Is(err, net.ErrClosed) && first == nil {
			first = err
		}
		g.Close()
	}
	<-done
	return first
}

// serve is the accept loop of one member.
func (l *Listener) serve(handle func(net.Conn)) error {
	// Never unlocked: the runtime ends the thread, and its affinity with it.
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(l.CPU)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return os.NewSyscallError("sched_setaffinity", err)
	}
	for {
		c, err := l.Accept()
		if temporary(err) {
			time.Sleep(window / 10)
			continue
		}
		if err != nil {
			return err
		}
		go handle(c)
	}
}

// temporary tells whether accept may work later: descriptors or memory are
// short, or the connection ended while it waited.
func temporary(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Close closes all members. Connections that wait to be accepted are reset.
func (g *Group) Close() error {
	var errs []error
	g.once.Do(func() {
		close(g.stop)
		for _, l := range g.members {
			errs = append(errs, l.Close())
		}
	})
	return errors.Join(errs...)
}

// accepted counts where a connection arrived.
func (g *Group) accepted(l *Listener, c *net.TCPConn) {
	n := l.accepted.Add(1)
	if g.steered.Load() {
		l.arrived.Add(1)
		return
	}
	if n%sampleEvery != 0 {
		return
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	cpu := -1
	_ = rc.Control(func(fd uintptr) {
		if v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_INCOMING_CPU); err == nil {
			cpu = v
		}
	})
	for _, m := range g.members {
		if m.CPU == cpu {
			m.arrived.Add(sampleEvery)
		}
	}
}

// watch lets go of steering while the load is skewed.
func (g *Group) watch(done chan<- struct{}) {
	defer close(done)
	tick := time.NewTicker(window)
	defer tick.Stop()
	last := make([]uint64, len(g.members))
	var j judge
	for {
		select {
		case <-tick.C:
		case <-g.stop:
			return
		}
		var all, busiest uint64
		now := make([]uint64, len(g.members))
		for i, l := range g.members {
			now[i] = l.arrived.Load()
			all += now[i] - last[i]
			busiest = max(busiest, now[i]-last[i])
		}
		if all < windowConns {
			continue // the window goes on
		}
		last = now
		if on := j.look(g.steered.Load(), float64(busiest)*float64(len(g.members))/float64(all)); on != g.steered.Load() {
			g.steer(on)
		}
	}
}

// steer tags all members, or none.
func (g *Group) steer(on bool) {
	for _, l := range g.members {
		_ = l.tag(on) // a listener that is closed
	}
	g.steered.Store(on)
	g.since.Store(time.Now().UnixNano())
}

// A judge remembers windows.
type judge struct{ skewed, balanced int }

// look tells whether steering is to be on after a window in which the busiest
// CPU had so many fair shares.
func (j *judge) look(on bool, shares float64) bool {
	switch {
	case shares > skewedShares:
		j.skewed, j.balanced = j.skewed+1, 0
	case shares < balancedShares:
		j.skewed, j.balanced = 0, j.balanced+1
	}
	switch {
	case on && j.skewed >= skewedWindows:
		j.skewed = 0
		return false
	case !on && j.balanced >= balancedWindows:
		j.balanced = 0
		return true
	}
	return on
}
