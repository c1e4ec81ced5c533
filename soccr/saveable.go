package soccr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Saveable returns an [*UnsaveableError] for a socket that cannot be saved,
// as far as that can be told from outside: listeners, MPTCP, ULPs (kTLS),
// TCP-AO and TCP-MD5. It does not disturb the connection, so ask before
// holding anybody up; [Socket.Save] asks again, all but TCP-MD5, which only
// sock_diag(7) in the socket's network namespace knows: that needs
// CAP_NET_ADMIN over it, and CAP_SYS_ADMIN where it is not the caller's.
//
// Nobody tells, outside the kernel, of urgent data in the send queue and of
// out-of-order data: the first arrives as ordinary bytes at the peer, the
// second the peer sends again.
func Saveable(fd int) error {
	family, err := tcpFamily(fd)
	if err != nil {
		return err
	}
	info, err := readInfo(fd)
	if err != nil {
		return err
	}
	if info.state == Listen {
		return errListener
	}
	if !info.state.Saveable() {
		return &UnsaveableError{Reason: "in state " + info.state.String()}
	}
	if err := checkOptions(fd); err != nil || info.state == Close {
		return err
	}
	local, remote, err := addresses(fd)
	if err != nil {
		return err
	}
	var md5 bool
	err = inNetNSOf(fd, func() error {
		md5, err = hasMD5(fd, family, local, remote)
		return err
	})
	if err == nil && md5 {
		err = &UnsaveableError{Reason: "TCP-MD5 signatures"}
	}
	return err
}

// checkOptions refuses what getsockopt(2) tells of.
func checkOptions(fd int) error {
	ulp, err := getString(fd, unix.SOL_TCP, unix.TCP_ULP)
	if err != nil && !notThere(err) {
		return os.NewSyscallError("getsockopt TCP_ULP", err)
	}
	switch ulp {
	case "":
	case "tls":
		return &UnsaveableError{Reason: "kTLS"}
	default:
		return &UnsaveableError{Reason: "upper layer protocol " + ulp}
	}
	// TCP_AO_INFO answers ENOENT on a socket without TCP-AO, ENOPROTOOPT in
	// a kernel without (since 6.7).
	var ao [tcpAOInfoSize]byte
	_, err = getsockoptBytes(fd, unix.SOL_TCP, tcpAOInfo, ao[:])
	if err == nil {
		return &UnsaveableError{Reason: "TCP-AO signatures"}
	}
	if !notThere(err) && !errors.Is(err, unix.ENOENT) {
		return os.NewSyscallError("getsockopt TCP_AO_INFO", err)
	}
	return nil
}

// Of <linux/tcp.h>: TCP_AO_INFO and the size of struct tcp_ao_info_opt.
const (
	tcpAOInfo     = 40
	tcpAOInfoSize = 48
)

// Of <linux/inet_diag.h> and <linux/sock_diag.h>.
const (
	sockDiagByFamily = 20
	inetDiagInfo     = 2
	inetDiagMD5      = 18
	inetDiagMsgSize  = 72
)

// hasMD5 asks sock_diag, in the namespace of the calling thread, for one
// connection and tells whether it has keys for TCP-MD5. A connection that
// is not there has ended meanwhile: whoever uses it next will notice. A
// kernel without sock_diag is taken to have no keys.
func hasMD5(fd, family int, local, remote netip.AddrPort) (bool, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return false, os.NewSyscallError("getsockopt SO_COOKIE", err)
	}
	index, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err != nil {
		return false, os.NewSyscallError("getsockopt SO_BINDTOIFINDEX", err)
	}
	answer, err := askNetlink(unix.NETLINK_SOCK_DIAG, sockDiagByFamily, diagRequest(family, local, remote, uint32(index), cookie))
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
		return false, nil
	case err != nil:
		return false, os.NewSyscallError("sock_diag", err)
	}
	return parseMD5(answer)
}

// diagRequest is struct inet_diag_req_v2 for exactly one connection.
func diagRequest(family int, local, remote netip.AddrPort, index uint32, cookie uint64) []byte {
	r := make([]byte, 56)
	ne, be := binary.NativeEndian, binary.BigEndian
	r[0], r[1] = byte(family), unix.IPPROTO_TCP
	r[2] = 1 << (inetDiagInfo - 1)
	ne.PutUint32(r[4:], 1<<32-1) // all states
	be.PutUint16(r[8:], local.Port())
	be.PutUint16(r[10:], remote.Port())
	if family == unix.AF_INET {
		copy(r[12:], local.Addr().AsSlice())
		copy(r[28:], remote.Addr().AsSlice())
	} else {
		l, p := local.Addr().As16(), remote.Addr().As16()
		copy(r[12:], l[:])
		copy(r[28:], p[:])
	}
	ne.PutUint32(r[44:], index)
	ne.PutUint32(r[48:], uint32(cookie))
	ne.PutUint32(r[52:], uint32(cookie>>32))
	return r
}

// parseMD5 looks for keys in sock_diag's answer.
func parseMD5(b []byte) (bool, error) {
	ne := binary.NativeEndian
	for at := inetDiagMsgSize; at+4 <= len(b); {
		size, kind := int(ne.Uint16(b[at:])), ne.Uint16(b[at+2:])
		if kind == inetDiagMD5 && size > 4 {
			return true, nil
		}
		if size < 4 {
			return false, fmt.Errorf("sock_diag: attribute of %d bytes: %w", size, unix.EBADMSG)
		}
		at += (size + 3) &^ 3
	}
	return false, nil
}
