package peer

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// CheckReply tells whether f, fetched from a caller, is the socket that the
// caller meant (by its SO_COOKIE) and one that an answer may be sent on: an
// end of an unnamed AF_UNIX SOCK_SEQPACKET pair. A connection to some
// server is refused, lest the daemon speaks to it in the caller's place.
// Returns ENOTSOCK, EPROTOTYPE or EBADF.
func CheckReply(f *os.File, cookie uint64) error {
	var err error
	cerr := control(f, func(fd int) { err = checkReply(fd, cookie) })
	if cerr != nil {
		return cerr
	}
	return err
}

func checkReply(fd int, cookie uint64) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return fmt.Errorf("the reply descriptor: %w", err)
	}
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("the reply descriptor: %w", err)
	}
	if domain != unix.AF_UNIX || typ != unix.SOCK_SEQPACKET {
		return fmt.Errorf("the reply descriptor is no AF_UNIX SOCK_SEQPACKET socket: %w", unix.EPROTOTYPE)
	}
	if !unnamed(fd, unix.SYS_GETPEERNAME) || !unnamed(fd, unix.SYS_GETSOCKNAME) {
		return fmt.Errorf("the reply descriptor is no end of a socketpair: %w", unix.EPROTOTYPE)
	}
	got, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return fmt.Errorf("cookie of the reply descriptor: %w", err)
	}
	if got != cookie {
		return fmt.Errorf("the reply descriptor is another socket than meant: %w", unix.EBADF)
	}
	return nil
}

// SendReply sends msg on conn with the descriptor of file, unless that is
// nil. It never blocks, whatever the caller did to conn: EAGAIN.
func SendReply(conn *os.File, msg []byte, file *os.File) error {
	var oob []byte
	send := func(connFD int) error {
		return unix.Sendmsg(connFD, msg, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
	var err error
	withConn := func() error {
		return control(conn, func(fd int) { err = send(fd) })
	}
	var cerr error
	if file == nil {
		cerr = withConn()
	} else {
		var inner error
		cerr = control(file, func(fd int) {
			oob = unix.UnixRights(fd)
			inner = withConn()
		})
		if cerr == nil {
			cerr = inner
		}
	}
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("sendmsg", err)
}

// control calls fn with the number of f, which cannot be closed meanwhile
// and keeps its O_NONBLOCK.
func control(f *os.File, fn func(fd int)) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { fn(int(fd)) })
}
