package msocket

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// openDir opens a directory for reading. O_DIRECTORY fails before a fifo or
// device is opened, so that a wrong path has no side effect.
func openDir(path string) (*os.File, error) { return openFile(path, unix.O_RDONLY|unix.O_DIRECTORY) }

// openFile is open(2). It returns the bare errno.
func openFile(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
}

// ioctl issues cmd with the structure in arg, which the answer replaces. It
// returns EINTR: what the call had handed over is then in doubt.
func ioctl(dir *os.File, cmd uint32, arg []byte) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), uintptr(cmd), uintptr(unsafe.Pointer(&arg[0])))
	runtime.KeepAlive(dir)
	if e != 0 {
		return e
	}
	return nil
}

// socketpair makes the two ends of a channel.
func socketpair() (kept, given *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(pair[0]), "channel"), os.NewFile(uintptr(pair[1]), "channel"), nil
}

// socket is socket(2). It returns the bare errno, as a stack does.
func socket(name string, domain, typ, proto int) (*os.File, error) {
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// borrow calls fn with the number of f, which cannot be closed meanwhile
// and keeps its O_NONBLOCK.
func borrow(f *os.File, fn func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// option64 returns a socket option of 64 bits, such as SO_COOKIE.
func option64(f *os.File, opt int) (value uint64, err error) {
	err = borrow(f, func(fd int) (err error) {
		value, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, opt)
		return os.NewSyscallError("getsockopt", err)
	})
	return value, err
}

// sendRequest sends one message on a channel.
func sendRequest(conn *os.File, msg []byte) error {
	return borrow(conn, func(fd int) error {
		for {
			err := unix.Sendmsg(fd, msg, nil, nil, unix.MSG_NOSIGNAL)
			if err != unix.EINTR {
				return err
			}
		}
	})
}

// A delivery is an answer of the daemon with what came with it.
type delivery struct {
	uapi.ChanRep
	sock *os.File // nil if there is an error in the answer
	next *os.File // the caller's end of a new channel, or nil
}

// receiveReply receives one answer; name is to be that of the socket.
// Returns EPIPE at end of file, and EMFILE if there was no descriptor left
// for the socket.
func receiveReply(conn *os.File, name string) (d delivery, err error) {
	msg := make([]byte, uapi.SizeChanRep)
	oob := make([]byte, unix.CmsgSpace(2*4))
	var n, oobn, flags int
	err = borrow(conn, func(fd int) (err error) {
		for {
			n, oobn, flags, _, err = unix.Recvmsg(fd, msg, oob, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err
			}
		}
	})
	if err != nil {
		return d, err
	}
	err = d.take(oob[:oobn], name)
	if err == nil && n == 0 {
		err = unix.EPIPE
	}
	if err == nil {
		err = d.UnmarshalReply(msg[:n])
	}
	if err == nil && d.Error == 0 && d.sock == nil {
		err = unix.EPIPE
		if flags&unix.MSG_CTRUNC != 0 {
			err = unix.EMFILE
		}
	}
	if err != nil || d.Error != 0 {
		d.drop()
	}
	return d, err
}

// take owns the descriptors in a control message.
func (d *delivery) take(oob []byte, name string) error {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, c := range cmsgs {
		fds, err := unix.ParseUnixRights(&c)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			switch {
			case d.sock == nil:
				d.sock = os.NewFile(uintptr(fd), name)
			case d.next == nil:
				d.next = os.NewFile(uintptr(fd), "channel")
			default:
				unix.Close(fd) // not asked for
			}
		}
	}
	return nil
}

// drop closes what came with the answer.
func (d *delivery) drop() {
	for _, f := range []**os.File{&d.sock, &d.next} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// secureExecution tells whether the program has rights that who started it
// has not (AT_SECURE): then the environment does not choose its network.
func secureExecution() bool {
	const atSecure = 23
	vec, err := unix.Auxv()
	if err != nil {
		return unix.Getuid() != unix.Geteuid() || unix.Getgid() != unix.Getegid()
	}
	for _, e := range vec {
		if e[0] == atSecure {
			return e[1] != 0
		}
	}
	return false
}
