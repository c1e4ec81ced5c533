package netns

import (
	"bytes"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// Busy implements stacknode.Busier.
//
// A program under stackfs run always counts; an idle channel never does,
// since libraries keep theirs for a next socket. Beyond that it depends on
// what ends with the stack:
//   - its namespace was made with it: every socket and process in it counts;
//   - stackfs has changed somebody else's namespace, which will be taken
//     back: sockets count;
//   - nothing: the sockets are no worse off without the stack.
func (n *Netns) Busy() ([]string, error) {
	var reasons []string
	if _, runs := n.w.Counts(); runs > 0 {
		reasons = append(reasons, count(runs, "program")+" of stackfs run")
	}
	if !n.made && !n.changed {
		return reasons, nil
	}
	sockets, err := socketsInUse(n.w.Do, n.w.OwnSockets())
	if err != nil {
		return nil, err
	}
	if sockets > 0 {
		reasons = append(reasons, count(sockets, "socket"))
	}
	if n.made {
		id, _ := n.w.NetNS()
		procs, err := processesIn(id)
		if err != nil {
			return nil, err
		}
		reasons = append(reasons, procs...)
	}
	return reasons, nil
}

// socketsInUse returns the number of sockets that somebody has in the
// namespace that do enters, less the own of the daemon. It is read off
// sockstat, since sock_diag sees neither a TCP socket before bind nor a
// ping socket. That counts TCP connections that nobody holds any more, too,
// which end by themselves: those are taken from a dump.
func socketsInUse(do func(func() error) error, own int) (n int, err error) {
	err = do(func() error {
		for try := 0; ; try++ {
			before, err := socketsUsed()
			if n = before - own; err != nil || n <= 0 {
				return err
			}
			orphans, err := tcpOrphans()
			if err != nil {
				return err
			}
			// Read again: what came and went in between is in one number
			// but not in the other.
			after, err := socketsUsed()
			if err != nil {
				return err
			}
			if n = after - own - orphans; after == before || try == 3 {
				return nil
			}
		}
	})
	return max(n, 0), err
}

// socketsUsed returns the number of sockets in the namespace of the calling
// thread that belong to user space.
func socketsUsed() (int, error) {
	b, err := readThreadFile("/proc/thread-self/net/sockstat")
	if err != nil {
		return 0, err
	}
	return parseSockstat(b)
}

func parseSockstat(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("sockets: used ")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(rest)))
		}
	}
	return 0, fmt.Errorf("sockstat has no line \"sockets: used\": %w", unix.EPROTO)
}

// readThreadFile reads a small file of /proc by system calls of the calling
// thread only.
func readThreadFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return buf[:n], nil
}

// count returns "1 socket", "2 sockets".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}
