package fastsocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Config says how listeners are made. The zero Config is useful.
type Config struct {
	// CPUs are those to have a listener; nil means all that the calling
	// thread may run on.
	CPUs []int
	// Control is called for each socket before it is bound, as in
	// net.ListenConfig.
	Control func(network, address string, c syscall.RawConn) error
}

// Listen is the Listen of a zero Config.
func Listen(ctx context.Context, network, address string) (*Group, error) {
	return new(Config).Listen(ctx, network, address)
}

// Listen makes a listener for each CPU, all at one address; "tcp", "tcp4" and
// "tcp6" are the networks. Port 0 is one port for all. That somebody listens
// there already fails with EADDRINUSE, also if he is of the same user and has
// a group himself. The caller closes the group.
func (c *Config) Listen(ctx context.Context, network, address string) (*Group, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, &net.OpError{Op: "listen", Net: network, Err: net.UnknownNetworkError(network)}
	}
	cpus := c.CPUs
	if cpus == nil {
		var err error
		if cpus, err = allowedCPUs(); err != nil {
			return nil, err
		}
	}
	if len(cpus) == 0 {
		return nil, fmt.Errorf("fastsocket: no CPUs: %w", syscall.EINVAL)
	}
	g := &Group{stop: make(chan struct{})}
	for _, cpu := range cpus {
		l, err := c.listenOne(ctx, network, address, cpu, len(g.members) == 0)
		if err != nil {
			return nil, errors.Join(err, g.Close())
		}
		g.members = append(g.members, l)
		address = l.Addr().String() // of port 0 the one that it became
	}
	return g, nil
}

// listenOne makes the listener of a CPU.
func (c *Config) listenOne(ctx context.Context, network, address string, cpu int, first bool) (*Listener, error) {
	if first {
		if err := c.probe(ctx, network, address); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{Control: func(network, address string, rc syscall.RawConn) error {
		if c.Control != nil {
			if err := c.Control(network, address, rc); err != nil {
				return err
			}
		}
		return setOption(rc, unix.SO_REUSEPORT, 1)
	}}
	lc.SetMultipathTCP(false) // its listeners cannot be in a group
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tl, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("fastsocket: a listener of type %T: %w", l, syscall.EPROTOTYPE)
	}
	m := &Listener{TCPListener: tl, CPU: cpu}
	if m.raw, err = tl.SyscallConn(); err == nil {
		err = m.tag(true)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return m, nil
}

// probe fails if somebody listens at address already: it listens there for a
// moment, without SO_REUSEPORT. (Package net calls nothing between bind and
// listen, where the option would have to be set on the first listener.) If
// another group of the same user comes just then, both go on.
func (c *Config) probe(ctx context.Context, network, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" || port == "" {
		return err
	}
	lc := net.ListenConfig{Control: c.Control}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return err
	}
	return l.Close()
}

func setOption(rc syscall.RawConn, name, value int) error {
	var err error
	cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, name, value) })
	return errors.Join(cerr, os.NewSyscallError("setsockopt", err))
}

// allowedCPUs returns the CPUs that the calling thread may run on.
func allowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	var cpus []int
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}
