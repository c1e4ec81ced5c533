package msocket

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// Socket is socket(2) in the stack at path. The caller owns the file, which
// is close-on-exec always; typ may have SOCK_NONBLOCK, and the file then
// has deadlines. A typ of -1 makes nothing, and EINVAL says that the stack
// has the domain. A socket of AF_UNIX is in no stack: it is made locally if
// path is a stack. Errors: see the package.
func Socket(path string, domain, typ, proto int) (*os.File, error) {
	s, err := findStack(path)
	var f *os.File
	if err == nil {
		f, err = s.socket(ask{domain, typ, proto})
	}
	if err != nil {
		return nil, &OpError{Op: "socket", Stack: path, Err: err}
	}
	return f, nil
}

// socketContext is Socket that returns when ctx ends. The request then goes
// on without anybody waiting for it.
func (s *stack) socketContext(ctx context.Context, a ask) (*os.File, error) {
	return abandon(ctx, func() (*os.File, error) { return s.socket(a) })
}

// abandon calls open and returns what it does, or when ctx ends. Then what
// open makes later is closed.
func abandon(ctx context.Context, open func() (*os.File, error)) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if ctx.Done() == nil {
		return open()
	}
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		f, err := open()
		done <- result{f, err}
	}()
	select {
	case r := <-done:
		return r.f, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.f != nil {
				r.f.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// socket makes a socket of s and of no other stack.
func (s *stack) socket(a ask) (*os.File, error) {
	if a.typ != -1 {
		a.typ |= unix.SOCK_CLOEXEC
	}
	if a.domain == unix.AF_UNIX {
		return s.unixSocket(a)
	}
	var flags uint32
	if self := s.selfInfo(a.domain); self != nil {
		if f, err := s.ownSocket(a, self); f != nil || err != nil {
			return f, err
		}
		flags = uapi.MsocketMake
	}
	f, self, err := s.request(a, flags)
	if self == nil {
		return f, err
	}
	if f, err := s.ownSocket(a, self); f != nil || err != nil {
		return f, err
	}
	f, self, err = s.request(a, uapi.MsocketMake)
	if self != nil {
		return nil, unix.EPROTO
	}
	return f, err
}

// unixSocket makes a socket whose names are in the file system, not in a
// stack.
func (s *stack) unixSocket(a ask) (*os.File, error) {
	s.mu.Lock()
	checked := s.checked
	s.mu.Unlock()
	dir, err := openNode(s.path, checked)
	if err != nil {
		return nil, s.lost(err)
	}
	dir.Close()
	s.learned()
	return socket(s.path, a.domain, a.typ, a.proto)
}

// selfInfo returns what is known of s if it was our own namespace.
func (s *stack) selfInfo(domain int) *uapi.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.self.NetnsCookie == 0 || domain < 0 || domain > 63 || s.self.Families>>domain&1 == 0 {
		return nil
	}
	self := s.self
	return &self
}

// ownSocket makes a socket of the namespace that the calling thread is in,
// if that is still the stack: after setns(2), or below a seccomp
// supervisor, it is not. Then, and where socket(2) refuses what the daemon
// may grant, both results are nil.
func (s *stack) ownSocket(a ask, self *uapi.Info) (*os.File, error) {
	f, err := socket(s.path, a.domain, a.typ, a.proto)
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE),
		errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
		return nil, err
	case err != nil:
		return nil, nil
	}
	// Since 5.14; on older kernels the daemon makes the socket.
	cookie, err := option64(f, unix.SO_NETNS_COOKIE)
	if err != nil || cookie == 0 || cookie != self.NetnsCookie {
		f.Close()
		return nil, nil
	}
	return f, nil
}

// request asks the daemon for a socket. If the answer is to call socket(2),
// self is what is to be found there.
func (s *stack) request(a ask, flags uint32) (f *os.File, self *uapi.Info, err error) {
	var c *channel
	if a.plain() {
		c = s.take()
		defer s.put(c)
		if c.conn != nil {
			f, err := c.ask(s.path, a)
			if !errors.Is(err, errDead) && !errors.Is(err, unix.ESTALE) {
				return f, nil, err
			}
		}
	} else {
		c = &channel{}
		defer c.close()
	}
	return s.ioctl(c, a, flags)
}

// ioctl opens the node, asks for a socket and leaves the channel that comes
// with it in c.
func (s *stack) ioctl(c *channel, a ask, flags uint32) (*os.File, *uapi.Info, error) {
	s.mu.Lock()
	checked := s.checked
	s.mu.Unlock()
	dir, err := openNode(s.path, checked)
	if err != nil {
		return nil, nil, s.lost(err)
	}
	defer dir.Close()
	conn, err := nodeSocket(dir, a, flags)
	if err != nil {
		return nil, nil, s.lost(err)
	}
	s.learned()
	if conn == nil {
		self, err := nodeInfo(dir)
		if err != nil {
			return nil, nil, s.lost(err)
		}
		s.mu.Lock()
		s.self = self
		s.mu.Unlock()
		return nil, &self, nil
	}
	f, err := c.start(conn, s.path)
	if errors.Is(err, errDead) {
		err = s.lost(errGone)
	}
	return f, nil, err
}
