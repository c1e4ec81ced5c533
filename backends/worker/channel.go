package worker

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// maxUnread is how many bytes of answers (by the kernel's accounting, some
// 800 a message) may wait unread on a channel before it is closed: sockets
// in flight count against the limits of the whole daemon.
const maxUnread = 4 << 10

// A channel is the daemon's end of a socketpair. Where the worker serves
// only its own namespace it is one of the caller's, who may still hold that
// very end: nothing is received on it.
type channel struct {
	f        *os.File
	fd       int
	id       stacknode.Identity
	ruid     uint32
	rgid     uint32
	release  func()
	released func()
}

func (l *loop) addChannel(f *os.File, caller *stacknode.Caller, release func()) error {
	c := &channel{
		f: f, fd: int(f.Fd()), id: stacknode.Identity{UID: caller.UID, GID: caller.GID},
		ruid: caller.RealUID, rgid: caller.RealGID,
		release: release, released: func() { l.channels.Add(-1) },
	}
	// The kernel then tells with each request who sent it.
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	l.channels.Add(1)
	if err := l.add(c.fd, c); err != nil {
		l.channels.Add(-1)
		return err
	}
	return nil
}

func (c *channel) user() uint32 { return c.ruid }

func (c *channel) end(bool) {
	c.f.Close()
	c.released()
	c.release()
}

func (c *channel) ready(l *loop, _ uint32) bool {
	if l.w.cfg.OnlySelf {
		return false // the right to use the stack is looked at for each socket
	}
	b := &l.buf
	n, e := b.recv(c.fd)
	switch {
	case e == unix.EAGAIN || e == unix.EINTR:
		return true // somebody else took it
	case e != 0 || n != int(unsafe.Sizeof(b.req)) || b.hdr.Flags&unix.MSG_CTRUNC != 0:
		return false // end of file, no request of ours, or something came with it
	}
	if unread, e := outq(c.fd); e != 0 || unread > maxUnread {
		return false
	}
	fd, e := c.socket(l, b)
	b.rep = uapi.ChanRep{Seq: b.req.Seq, Error: int32(e)}
	e = b.send(c.fd, fd)
	if e == unix.ETOOMANYREFS && l.shed() {
		e = b.send(c.fd, fd)
	}
	if fd >= 0 {
		fastClose(fd)
	}
	return e == 0
}

func (c *channel) socket(l *loop, b *chanBuf) (int, syscall.Errno) {
	r := &b.req
	if r.Flags != 0 || r.Resv != 0 || r.Seq == 0 {
		return -1, unix.EINVAL
	}
	// SCM_CREDENTIALS has the real ids; a process that gave up rights, or
	// gained some, opens a channel anew.
	if b.cred.Uid != c.ruid || b.cred.Gid != c.rgid {
		return -1, unix.ESTALE
	}
	domain, typ, proto := int(r.Domain), int(r.Type), int(r.Protocol)
	if !plain(domain, typ, proto) {
		return -1, unix.ESTALE
	}
	return l.plainSocket(c.id.UID, c.id.GID, domain, typ, proto)
}
