package fstests

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// listenOn asks a stack for clones of fd, on this thread, and returns how many
// are in the box. change may spoil the request.
func listenOn(node string, fd int, change func(l *uapi.Listen)) (n int, err error) {
	dir, err := unix.Open(node, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(dir)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	l := uapi.Listen{ReplyFD: int32(pair[1]), ListenerFD: int32(fd)}
	if l.ReplyCookie, err = unix.GetsockoptUint64(pair[1], unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return 0, err
	}
	l.ListenerCookie, _ = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if change != nil {
		change(&l)
	}
	b, err := l.MarshalBinary()
	if err != nil {
		return 0, err
	}
	copy(b[32:], unsafe.Slice((*byte)(unsafe.Pointer(&l.Resv)), 16))
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(dir), uapi.IocListen, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return 0, e
	}
	msg, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(8))
	_, oobn, _, _, err := unix.Recvmsg(pair[0], msg, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, err
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(cmsgs) != 1 {
		return 0, fmt.Errorf("%d control messages: %w", len(cmsgs), err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) != 2 {
		return 0, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	for {
		_, oobn, _, _, err := unix.Recvmsg(fds[0], msg, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			return n, nil
		}
		cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(cmsgs) != 1 {
			return n, fmt.Errorf("clone %d: %w", n, err)
		}
		clones, err := unix.ParseUnixRights(&cmsgs[0])
		if err != nil {
			return n, err
		}
		// It is bound like its original and does not listen.
		var st unix.Stat_t
		own, _ := unix.Getsockname(fd)
		its, err := unix.Getsockname(clones[0])
		listens, _ := unix.GetsockoptInt(clones[0], unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil || fmt.Sprint(own) != fmt.Sprint(its) || listens != 0 || unix.Fstat(clones[0], &st) != nil || st.Uid != uint32(unix.Geteuid()) {
			err = fmt.Errorf("clone %d: %v, want %v, of %d: %v", n, its, own, st.Uid, err)
		}
		unix.Close(clones[0])
		if err != nil {
			return n, err
		}
		n++
	}
}

// Who asks for clones of what he may not, or of what is no listener, gets an
// errno and nothing else.
func TestFastListenRequests(t *testing.T) {
	s := newFastSite(t, "[stack.other]\nmode = \"0755\"\n")
	tcp := func(bind bool) (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil && bind {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		}
		return fd, err
	}
	with := func(kind, typ, proto int) func() (int, error) {
		return func() (int, error) { return unix.Socket(kind, typ|unix.SOCK_CLOEXEC, proto) }
	}
	bound := func() (int, error) { return tcp(true) }
	for _, c := range []struct {
		name   string
		stack  string
		make   func() (int, error)
		change func(l *uapi.Listen)
		want   error
	}{
		{"a listener to be", "fast", bound, nil, nil},
		{"kernel", "kernel", bound, nil, unix.EOPNOTSUPP},
		{"another stack", "other", bound, nil, unix.EOPNOTSUPP},
		{"not bound", "fast", func() (int, error) { return tcp(false) }, nil, unix.EINVAL},
		{"UDP", "fast", with(unix.AF_INET, unix.SOCK_DGRAM, 0), nil, unix.EPROTOTYPE},
		{"UNIX", "fast", with(unix.AF_UNIX, unix.SOCK_STREAM, 0), nil, unix.EPROTOTYPE},
		{"MPTCP", "fast", with(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), nil, unix.EPROTONOSUPPORT},
		{"no socket", "fast", func() (int, error) { return unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0) }, nil, unix.ENOTSOCK},
		{"listens alone", "fast", func() (int, error) {
			fd, err := tcp(true)
			if err == nil {
				err = unix.Listen(fd, 1)
			}
			return fd, err
		}, nil, unix.EINVAL},
		{"a filter", "fast", func() (int, error) {
			fd, err := tcp(true)
			f := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff}
			if err == nil {
				err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &f})
			}
			return fd, err
		}, nil, unix.EOPNOTSUPP},
		{"not open", "fast", bound, func(l *uapi.Listen) { l.ListenerFD = 1 << 20 }, unix.EBADF},
		{"another cookie", "fast", bound, func(l *uapi.Listen) { l.ListenerCookie++ }, unix.EBADF},
		{"another reply", "fast", bound, func(l *uapi.Listen) { l.ReplyCookie++ }, unix.EBADF},
		{"the reply is no pair", "fast", bound, func(l *uapi.Listen) { l.ReplyFD, l.ReplyCookie = l.ListenerFD, l.ListenerCookie }, unix.EPROTOTYPE},
		{"flags", "fast", bound, func(l *uapi.Listen) { l.Flags = 1 }, unix.EINVAL},
		{"reserved", "fast", bound, func(l *uapi.Listen) { l.Resv[3] = 1 }, unix.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNamespace(t, s.ns, func() error {
				fd, err := c.make()
				if err != nil {
					return os.NewSyscallError("make the socket", err)
				}
				defer unix.Close(fd)
				n, err := listenOn(s.Path(c.stack), fd, c.change)
				if err != c.want || c.want == nil && n < 2 {
					t.Errorf("got %d clones and %v, want %v", n, err, c.want)
				}
				return nil
			})
		})
	}
	t.Run("another namespace", func(t *testing.T) {
		fd, err := bound()
		mustDo(t, err)
		defer unix.Close(fd)
		if _, err := listenOn(s.Path("fast"), fd, nil); err != unix.EACCES {
			t.Errorf("got %v, want EACCES", err)
		}
	})
	t.Run("another user's", func(t *testing.T) {
		inNamespace(t, s.ns, func() error {
			fd, err := tcp(true)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			// The thread ends with this function.
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, Nobody, Nobody, Nobody); e != 0 {
				return e
			}
			if _, err := listenOn(s.Path("fast"), fd, nil); err != unix.EPERM && err != unix.EACCES {
				t.Errorf("got %v, want EPERM", err)
			}
			return nil
		})
	})
}
