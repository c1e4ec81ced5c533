package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Of <linux/sock_diag.h>, <linux/inet_diag.h> and <net/tcp_states.h>.
const (
	sockDiagByFamily = 20
	sizeofDiagReq    = 56 // struct inet_diag_req_v2
	sizeofDiagMsg    = 72 // struct inet_diag_msg
	offsetDiagTimer  = 2
	offsetDiagInode  = 68

	// diagTimeWait is idiag_timer of a TIME_WAIT entry, which may have
	// FIN_WAIT2 for its state and is no socket either.
	diagTimeWait = 3

	tcpTimeWait   = 6
	tcpListen     = 10
	tcpNewSynRecv = 12
)

// openDiag returns a sock_diag socket of the calling thread's namespace.
func openDiag() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	return fd, os.NewSyscallError("socket", err)
}

// tcpOrphans returns how many TCP connections of diag's namespace are in
// the hands of the kernel alone: closed by their owner and not finished, or
// not accepted yet (those go with their listener). The number "orphan" of
// sockstat is that of the whole machine.
func tcpOrphans(diag int) (int, error) {
	total := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		n, err := dumpOrphans(diag, family)
		if errors.Is(err, unix.ENOENT) {
			continue // no tcp_diag or no IPv6: every socket counts
		}
		if err != nil {
			return 0, fmt.Errorf("dump TCP sockets: %w", err)
		}
		total += n
	}
	return total, nil
}

// dumpOrphans counts the TCP sockets of one family that have no inode. The
// states left out have no struct sock that sockstat would count, or always
// have an inode.
func dumpOrphans(fd int, family uint8) (int, error) {
	req := make([]byte, unix.SizeofNlMsghdr+sizeofDiagReq)
	ne := binary.NativeEndian
	ne.PutUint32(req[0:], uint32(len(req)))
	ne.PutUint16(req[4:], sockDiagByFamily)
	ne.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	body := req[unix.SizeofNlMsghdr:]
	body[0], body[1] = family, unix.IPPROTO_TCP
	ne.PutUint32(body[4:], uint32(0xfff)&^(1<<tcpTimeWait|1<<tcpListen|1<<tcpNewSynRecv))
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 64<<10)
	orphans := 0
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("recvfrom", err)
		}
		found, done, err := countOrphans(buf[:n])
		orphans += found
		if done || err != nil {
			return orphans, err
		}
	}
}

// countOrphans reads one datagram of a dump's answer.
func countOrphans(b []byte) (orphans int, done bool, err error) {
	ne := binary.NativeEndian
	for len(b) >= unix.SizeofNlMsghdr {
		size, typ := int(ne.Uint32(b)), ne.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return orphans, false, fmt.Errorf("netlink message of %d bytes: %w", size, unix.EBADMSG)
		}
		body := b[unix.SizeofNlMsghdr:size]
		switch typ {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if len(body) >= 4 {
				if e := int32(ne.Uint32(body)); e < 0 {
					return orphans, true, unix.Errno(-e)
				}
			}
			return orphans, true, nil
		case sockDiagByFamily:
			if len(body) >= sizeofDiagMsg && body[offsetDiagTimer] != diagTimeWait && ne.Uint32(body[offsetDiagInode:]) == 0 {
				orphans++
			}
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return orphans, false, nil
}
