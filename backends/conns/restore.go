package conns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode"
)

// Restore implements stacknode.Checkpointer. Where it fails the peer notices
// nothing.
func (s *Stack) Restore(ctx context.Context, caller *stacknode.Caller, b []byte) (*os.File, error) {
	if s.env.Engine.off() {
		return nil, errOff
	}
	img, err := image.Decode(b)
	if err != nil {
		return nil, err
	}
	if img.Foreign {
		return nil, errForeign
	}
	permit, err := s.mayRestore(caller, img)
	if err != nil {
		return nil, err
	}
	if !permit.trusted {
		tame(img.Conn)
	}
	var f *os.File
	restore := func() error {
		f, err = s.restore(ctx, caller, img.Conn)
		return err
	}
	if permit.once {
		err = s.env.Seals.use(img, restore)
	} else {
		err = restore()
	}
	if err != nil {
		return nil, err
	}
	s.log.Debug("connection restored", "uid", caller.UID, "local", img.Conn.Local, "remote", img.Conn.Remote)
	return f, nil
}

// restore makes a socket of the caller's, as if he had called socket(2) in
// the stack, and makes it the connection.
func (s *Stack) restore(ctx context.Context, caller *stacknode.Caller, c *soccr.Conn) (*os.File, error) {
	f, err := s.cfg.Worker.Socket(ctx, caller, c.Family, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	err = s.cfg.Worker.Do(func() error {
		return control(f, func(fd int) error { return soccr.Restore(fd, c) })
	})
	if err != nil {
		f.Close()
		return nil, s.advise(err, c)
	}
	return f, nil
}

// advise says what can be done about a restore that failed.
func (s *Stack) advise(err error, c *soccr.Conn) error {
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("stack %s has not the address %s (ip address add, or the key addresses of its configuration, gives it): %w",
			s.cfg.Stack, c.Local.Addr(), err)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("stack %s has a connection from %s to %s already (its directory in conns has it; end that first): %w",
			s.cfg.Stack, c.Local, c.Remote, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the kernel does not let the daemon restore (it needs CAP_NET_ADMIN and CAP_NET_RAW over the network namespace): %w", err)
	}
	return err
}

// tame takes from an image, which anybody may have written, what its bearer
// could not have without the daemon's rights over the whole system: buffers
// beyond the limits of socket(7), busy polling, and a congestion control whose
// module would be loaded.
func tame(c *soccr.Conn) {
	for name, path := range map[string]string{"SO_RCVBUF": "rmem_max", "SO_SNDBUF": "wmem_max"} {
		if v, ok := c.Options[name]; ok {
			limit, err := readNumber("/proc/sys/net/core/" + path)
			if err != nil || v > 2*limit {
				c.Options[name] = 2 * limit
			}
		}
	}
	delete(c.Options, "SO_BUSY_POLL")
	known, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil || !slices.Contains(strings.Fields(string(known)), c.Congestion) {
		c.Congestion = ""
	}
}

func readNumber(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// control calls fn with the number of f, which cannot be closed meanwhile.
func control(f *os.File, fn func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := rc.Control(func(fd uintptr) { err = fn(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
