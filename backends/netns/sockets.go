package netns

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// settle bounds the pauses, 1 ms and then each twice as long, in which
// socketsInUse waits for sockets that are closed to be gone.
const settle = 64 * time.Millisecond

// socketsInUse returns the number of sockets that somebody has in the
// namespace that do enters, less those of the counter itself.
//
// It is read off sockstat, since sock_diag sees neither a TCP socket before
// bind nor a ping socket. But sockstat counts two kinds too many:
//   - TCP connections that nobody holds any more and that end by themselves.
//     Those are taken from a dump.
//   - netlink sockets that were closed up to an RCU grace period (tens of
//     milliseconds) ago: the daemon's or those of an ip command. While
//     there are more sockets than the protocols say that they have, we wait
//     for these to go. What then stays is a socket that its protocol does
//     not count either: that same TCP socket before bind.
func socketsInUse(do func(func() error) error) (n int, err error) {
	err = do(func() error {
		c := counter{diag: -1}
		defer c.close()
		for pause := time.Millisecond; ; pause *= 2 {
			var known int
			if n, known, err = c.count(); err != nil || n <= known || pause > settle {
				return err
			}
			time.Sleep(pause)
		}
	})
	return max(n, 0), err
}

// A counter counts the sockets of the namespace of the calling thread. All
// its system calls are for that thread.
type counter struct {
	diag int // sock_diag socket, made when needed; -1: none
}

func (c *counter) close() {
	if c.diag >= 0 {
		unix.Close(c.diag)
	}
}

// count returns the number of sockets and how many of them are those that
// the protocols know of.
func (c *counter) count() (used, known int, err error) {
	used, known, tcp, err := c.read()
	if err != nil || used <= 0 || tcp == 0 {
		return used, known, err
	}
	if c.diag < 0 {
		if c.diag, err = openDiag(); err != nil {
			return 0, 0, err
		}
	}
	orphans, err := tcpOrphans(c.diag)
	if err != nil {
		return 0, 0, err
	}
	used, known, _, err = c.read()
	return used - orphans, known - orphans, err
}

func (c *counter) read() (used, known, tcp int, err error) {
	ours := 0
	if c.diag >= 0 {
		ours++
	}
	b, err := readThreadFile("/proc/thread-self/net/sockstat")
	if err != nil {
		return 0, 0, 0, err
	}
	if used, err = parseSockstat(b); err != nil || used <= ours {
		return used - ours, 0, 0, err
	}
	if b, err = readThreadFile("/proc/thread-self/net/protocols"); err != nil {
		return 0, 0, 0, err
	}
	known, tcp, err = parseProtocols(b)
	return used - ours, known - ours, tcp, err
}

// parseSockstat returns the number of sockets of user space.
func parseSockstat(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("sockets: used ")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(rest)))
		}
	}
	return 0, fmt.Errorf("sockstat has no line \"sockets: used\": %w", unix.EPROTO)
}

// parseProtocols returns the number of sockets of all protocols, and that
// of TCP. The columns are name, size, sockets, ...
func parseProtocols(b []byte) (total, tcp int, err error) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 3 || string(f[0]) == "protocol" {
			continue
		}
		n, err := strconv.Atoi(string(f[2]))
		if err != nil {
			return 0, 0, fmt.Errorf("protocols: %w", err)
		}
		total += n
		if name := string(f[0]); name == "TCP" || name == "TCPv6" {
			tcp += n
		}
	}
	return total, tcp, nil
}

// readThreadFile reads a file of /proc by system calls of the calling
// thread only.
func readThreadFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 16<<10)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if n == 0 {
			return buf, nil
		}
		buf = buf[:len(buf)+n]
	}
}
