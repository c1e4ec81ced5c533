package soccr

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const nlmsgHdrSize = 16 // struct nlmsghdr of <linux/netlink.h>

// askNetlink sends one request in the namespace of the calling thread and
// returns the body of the one message that answers it. An error that the
// kernel answers is returned as its errno.
func askNetlink(protocol int, kind uint16, body []byte) ([]byte, error) {
	nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket AF_NETLINK", err)
	}
	defer unix.Close(nl)
	ne := binary.NativeEndian
	req := make([]byte, nlmsgHdrSize, nlmsgHdrSize+len(body))
	ne.PutUint32(req, uint32(nlmsgHdrSize+len(body)))
	ne.PutUint16(req[4:], kind)
	ne.PutUint16(req[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(nl, append(req, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("send to netlink", err)
	}
	b := make([]byte, 8192)
	n, _, err := unix.Recvfrom(nl, b, 0)
	if err != nil {
		return nil, os.NewSyscallError("receive from netlink", err)
	}
	if n < nlmsgHdrSize+4 {
		return nil, fmt.Errorf("netlink answers %d bytes: %w", n, unix.EBADMSG)
	}
	if ne.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return nil, unix.Errno(-int32(ne.Uint32(b[nlmsgHdrSize:])))
	}
	return b[nlmsgHdrSize:n], nil
}

// awaitLocal waits until the stack of the calling thread delivers packets
// to an address to itself. For IPv6 that can be a while after the address
// was added and can be bound to: until then they would go out of the
// interface, to nobody. It gives up after some seconds; an address that is
// reached in another way may be right nevertheless.
func awaitLocal(a netip.Addr, index uint32) {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if local, err := isLocal(a, index); local || err != nil {
			return
		}
	}
}

// isLocal asks rtnetlink(7) for the route to an address, out of an
// interface if index is not 0, with Mark.
func isLocal(a netip.Addr, index uint32) (bool, error) {
	dst, family := a.AsSlice(), byte(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	ne := binary.NativeEndian
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1] = family, byte(8*len(dst))
	add := func(kind uint16, value []byte) {
		body = ne.AppendUint16(body, uint16(4+len(value)))
		body = ne.AppendUint16(body, kind)
		body = append(body, value...)
	}
	add(unix.RTA_DST, dst)
	add(unix.RTA_MARK, ne.AppendUint32(nil, Mark))
	if index != 0 {
		add(unix.RTA_OIF, ne.AppendUint32(nil, index))
	}
	answer, err := askNetlink(unix.NETLINK_ROUTE, unix.RTM_GETROUTE, body)
	switch {
	case err == unix.ENETUNREACH || err == unix.EHOSTUNREACH:
		return false, nil
	case err != nil || len(answer) < unix.SizeofRtMsg:
		return false, err
	}
	return answer[7] == unix.RTN_LOCAL, nil // rtm_type
}
