package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// duplicate returns a duplicate of a descriptor of another process.
func duplicate(pid, fd int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	n, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_getfd", err)
	}
	return os.NewFile(uintptr(n), "socket"), nil
}

// inNetNS runs fn on a thread in a network namespace.
func inNetNS(path string, fn func() error) error {
	return onThread(func() error {
		if err := enterNetNS(path); err != nil {
			return err
		}
		return fn()
	})
}

func tcpSocket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// connectedPair makes a connection over the loopback of the thread's
// namespace.
func connectedPair() (near, far *os.File, err error) {
	l, err := tcpSocket()
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if err := errors.Join(
		os.NewSyscallError("bind", unix.Bind(int(l.Fd()), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})),
		os.NewSyscallError("listen", unix.Listen(int(l.Fd()), 1))); err != nil {
		return nil, nil, err
	}
	to, err := unix.Getsockname(int(l.Fd()))
	if err != nil {
		return nil, nil, os.NewSyscallError("getsockname", err)
	}
	near, err = tcpSocket()
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Connect(int(near.Fd()), to); err != nil {
		near.Close()
		return nil, nil, os.NewSyscallError("connect", err)
	}
	fd, _, err := unix.Accept4(int(l.Fd()), unix.SOCK_CLOEXEC)
	if err != nil {
		near.Close()
		return nil, nil, os.NewSyscallError("accept", err)
	}
	return near, os.NewFile(uintptr(fd), "socket"), nil
}

// orphanedConn makes a connection in a namespace and takes one end away. Its
// peer is the caller's.
func orphanedConn(netns string) (conn *soccr.Conn, far *os.File, err error) {
	err = inNetNS(netns, func() error {
		var near *os.File
		if near, far, err = connectedPair(); err != nil {
			return err
		}
		defer near.Close()
		sk, err := soccr.Pause(int(near.Fd()))
		if err != nil {
			return errors.Join(err, far.Close())
		}
		if conn, err = sk.Conn(); err != nil {
			return errors.Join(err, far.Close())
		}
		sk.Release()
		return nil
	})
	return conn, far, err
}

// closeSilently closes a socket in repair mode: its peer sees nothing.
func closeSilently(f *os.File) error {
	sk, err := soccr.Pause(int(f.Fd()))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	sk.Release()
	return f.Close()
}

// restoreHere is the restore of the library alone.
func restoreHere(netns string, conn *soccr.Conn) (f *os.File, err error) {
	err = inNetNS(netns, func() error {
		if f, err = tcpSocket(); err != nil {
			return err
		}
		if err := soccr.Restore(int(f.Fd()), conn); err != nil {
			return errors.Join(err, f.Close())
		}
		return nil
	})
	return f, err
}

// restoreThroughMount writes an image to a stack's file restore and takes the
// socket.
func restoreThroughMount(path string, img []byte) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(img); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	cookie, err := unix.GetsockoptUint64(pair[1], unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return nil, os.NewSyscallError("SO_COOKIE", err)
	}
	arg, err := (&uapi.Restore{ReplyCookie: cookie, ReplyFD: int32(pair[1])}).MarshalBinary()
	if err != nil {
		return nil, err
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uapi.IocRestore, uintptr(unsafe.Pointer(&arg[0]))); e != 0 {
		why, _ := io.ReadAll(f)
		return nil, fmt.Errorf("restore: %w: %s", e, why)
	}
	return receiveSocket(pair[0])
}

func receiveSocket(fd int) (*os.File, error) {
	msg, oob := make([]byte, uapi.SizeChanRep), make([]byte, unix.CmsgSpace(2*4))
	_, n, _, _, err := unix.Recvmsg(fd, msg, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	list, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(list) != 1 {
		return nil, fmt.Errorf("no socket came: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "socket"), nil
}
