package peer

import (
	"errors"
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

// CheckCookie checks that f is the socket with that SO_COOKIE. Returns EBADF if
// it is not: the caller has exchanged it meanwhile.
func CheckCookie(f *os.File, cookie uint64) error {
	var got uint64
	var err error
	cerr := control(f, func(fd int) { got, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE) })
	switch {
	case cerr != nil:
		return cerr
	case err != nil:
		return os.NewSyscallError("getsockopt SO_COOKIE", err)
	case got != cookie:
		return fmt.Errorf("the socket has cookie %d, not %d: %w", got, cookie, unix.EBADF)
	}
	return nil
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

// SendReply sends msg on conn with the descriptors of files. It never
// blocks, whatever the caller did to conn: EAGAIN.
func SendReply(conn *os.File, msg []byte, files ...*os.File) error {
	if len(files) == 0 {
		return sendReply(conn, msg, nil)
	}
	return withFDs(files, nil, func(fds []int) error {
		return sendReply(conn, msg, unix.UnixRights(fds...))
	})
}

func sendReply(conn *os.File, msg, oob []byte) error {
	var err error
	cerr := control(conn, func(fd int) {
		err = unix.Sendmsg(fd, msg, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("sendmsg", err)
}

// withFDs calls fn with the numbers of files, none of which can be closed
// meanwhile.
func withFDs(files []*os.File, fds []int, fn func(fds []int) error) error {
	if len(files) == 0 {
		return fn(fds)
	}
	var err error
	cerr := control(files[0], func(fd int) { err = withFDs(files[1:], append(fds, fd), fn) })
	if cerr != nil {
		return cerr
	}
	return err
}

// Channel makes a pair of sockets: the daemon's end, which nobody else ever
// holds, and the caller's. With an end of a caller's own pair, of which it
// may have a copy, it could change the options under which the daemon
// receives, and so have it take in descriptors.
func Channel() (mine, his *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	mine, his = os.NewFile(uintptr(pair[0]), "channel"), os.NewFile(uintptr(pair[1]), "channel")
	if err := RefuseRights(pair[0]); err != nil {
		mine.Close()
		his.Close()
		return nil, nil, err
	}
	return mine, his, nil
}

// RefuseRights makes the kernel refuse descriptors that are sent to fd, with
// EPERM. Before 6.16 it has no such option: they are dropped when received.
func RefuseRights(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, soPassRights, 0)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return nil
	}
	return os.NewSyscallError("setsockopt SO_PASSRIGHTS", err)
}

const soPassRights = 83 // SO_PASSRIGHTS

// control calls fn with the number of f, which cannot be closed meanwhile
// and keeps its O_NONBLOCK.
func control(f *os.File, fn func(fd int)) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { fn(int(fd)) })
}
