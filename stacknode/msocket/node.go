package msocket

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// openNode opens the stack at path and, unless checked before, asks whether
// it is one. The opening is the permission check.
func openNode(path string, checked bool) (*os.File, error) {
	dir, err := openDir(path)
	if err != nil {
		return nil, nodeError(err)
	}
	if checked {
		return dir, nil
	}
	if err := checkVersion(dir); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

func checkVersion(dir *os.File) error {
	var v uapi.Version
	b, err := call(dir, uapi.IocVersion, &v)
	switch {
	// Other file systems have other words for a command they lack.
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return errNoStack
	case err != nil:
		return nodeError(err)
	}
	if err := v.UnmarshalReply(b); err != nil {
		return err
	}
	if v.Major != uapi.ABIMajor {
		return fmt.Errorf("its daemon speaks version %d of the ABI, this program %d: %w", v.Major, uapi.ABIMajor, unix.ENOTSUP)
	}
	return nil
}

// call issues a command that may be repeated and returns the answer.
func call(dir *os.File, cmd uint32, arg interface{ MarshalBinary() ([]byte, error) }) ([]byte, error) {
	for {
		b, err := arg.MarshalBinary()
		if err != nil {
			return nil, err
		}
		if err = ioctl(dir, cmd, b); !errors.Is(err, unix.EINTR) {
			return b, err
		}
	}
}

func nodeInfo(dir *os.File) (uapi.Info, error) {
	var info uapi.Info
	b, err := call(dir, uapi.IocInfo, &info)
	if err != nil {
		return info, nodeError(err)
	}
	return info, info.UnmarshalReply(b)
}

// pathInfo asks the stack at path what it is.
func pathInfo(path string) (uapi.Info, error) {
	dir, err := openNode(path, false)
	if err != nil {
		return uapi.Info{}, err
	}
	defer dir.Close()
	return nodeInfo(dir)
}

// A daemon serves so many calls of a user at a time: then it is asked again,
// for about a second.
const (
	busyTries = 200
	busyWait  = 5 * time.Millisecond
)

// nodeSocket issues IocMsocket. On ResultSent, conn is the socket on which
// the answer waits; it is nil on ResultSelf.
func nodeSocket(dir *os.File, a ask, flags uint32) (conn *os.File, err error) {
	m := uapi.Msocket{Domain: int32(a.domain), Type: int32(a.typ), Protocol: int32(a.proto), Flags: flags}
	conn, err = askPair(func(cookie uint64, fd int) error {
		m.ReplyCookie, m.ReplyFD = cookie, int32(fd)
		b, err := m.MarshalBinary()
		if err == nil {
			err = ioctl(dir, uapi.IocMsocket, b)
		}
		if err == nil {
			err = m.UnmarshalReply(b)
		}
		return err
	})
	if err != nil {
		return nil, nodeError(err)
	}
	if m.Result == uapi.ResultSelf {
		conn.Close()
		return nil, nil
	}
	return conn, nil
}

// askPair calls ask with the number and cookie of the end of a socketpair
// that the daemon is to answer on, and returns the other end. The pair is
// made anew for each try, since a call that was interrupted may have taken
// it. The error is the bare errno.
func askPair(ask func(cookie uint64, fd int) error) (conn *os.File, err error) {
	for busy := 0; ; {
		conn, err := tryPair(ask)
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && busy < busyTries:
			busy++
			time.Sleep(busyWait)
		default:
			return nil, err
		}
	}
}

func tryPair(ask func(cookie uint64, fd int) error) (kept *os.File, err error) {
	kept, given, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer given.Close()
	cookie, err := option64(given, unix.SO_COOKIE)
	if err == nil {
		// given is closed after the call: the daemon fetches it meanwhile.
		err = borrow(given, func(fd int) error { return ask(cookie, fd) })
	}
	if err != nil {
		kept.Close()
		return nil, err
	}
	return kept, nil
}
