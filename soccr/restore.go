package soccr

import (
	"fmt"
	"maps"
	"os"

	"golang.org/x/sys/unix"
)

// Restore makes a new TCP socket, of the family c.Family and in the network
// namespace where the connection is to live, into the connection c. The
// descriptor is borrowed. c is not changed.
//
// It needs CAP_NET_ADMIN and, for a connection whose peer sent a FIN or
// acknowledged ours, CAP_NET_RAW over that namespace (EPERM); the local
// address must be there (EADDRNOTAVAIL) and the connection not (EADDRINUSE).
// An option that this kernel lacks is left out and logged.
//
// While it works the socket takes no packets, and it sends none before
// nothing can fail any more. After an error it is still in repair mode:
// close it at once, which the peer does not see. Within a second, that is:
// then it would send what is not acknowledged again.
func Restore(fd int, c *Conn) error {
	s, err := Pause(fd)
	if err != nil {
		return err
	}
	if err := s.restore(c); err != nil {
		return err
	}
	return s.Resume()
}

// Restore makes the socket, which is new and was paused, into the
// connection d with the addresses of SetAddr and the bytes of SetQueueBytes;
// its options are set by the caller, before Pause ([WriteOptions]). The
// connection starts with Resume. For all else see the function [Restore].
func (s *Socket) Restore(d *Data) error {
	return s.restore(&Conn{Data: *d, Family: s.family, Local: s.local, Remote: s.remote, Recv: s.recv, Send: s.send})
}

// What a state says about the two FINs.
var (
	peerFIN  = map[State]bool{CloseWait: true, LastAck: true, Closing: true, Close: true}                // came in
	ourFIN   = map[State]bool{FinWait1: true, FinWait2: true, Closing: true, LastAck: true, Close: true} // is in the send queue, or was
	ackedFIN = map[State]bool{FinWait2: true, Close: true}                                               // ours, by the peer
)

// A restorer is one restore.
type restorer struct {
	s    *Socket
	fd   int
	c    Conn
	peer *forger // nil if the peer sent neither a FIN nor an acknowledgement of ours
}

func (s *Socket) restore(c *Conn) error {
	r := &restorer{s: s, fd: s.fd, c: *c}
	if err := r.check(); err != nil {
		return err
	}
	if err := r.prepare(); err != nil {
		return fmt.Errorf("restore %v: %w", c.State, err)
	}
	err := r.run()
	if r.peer != nil {
		r.peer.close()
	}
	if err != nil {
		return fmt.Errorf("restore %v: %w", c.State, err)
	}
	s.restored = true
	return nil
}

// check refuses what no save can have produced.
func (r *restorer) check() error {
	c := &r.c
	if c.State == Close { // what was not acknowledged never will be
		c.Send, c.OutqLen, c.UnsqLen = nil, 0, 0
	}
	l, p := c.Local.Addr(), c.Remote.Addr()
	var why string
	switch {
	case !c.State.Saveable():
		why = "state " + c.State.String()
	case c.Family != r.s.family:
		why = fmt.Sprintf("a connection of address family %d on a socket of %d", c.Family, r.s.family)
	case len(c.Recv) != int(c.InqLen) || len(c.Send) != int(c.OutqLen) || c.UnsqLen > c.OutqLen:
		why = "queues that are not as long as they say"
	case ackedFIN[c.State] && c.OutqLen > 0:
		why = "bytes that are not acknowledged before a FIN that is"
	case c.State == SynSent && c.InqLen+c.OutqLen > 0:
		why = "bytes in state " + c.State.String()
	case c.SndWscale > 14 || c.RcvWscale > 14:
		why = "a window scale above 14"
	case c.State == Close && !c.Remote.IsValid():
		if c.InqLen > 0 {
			why = "bytes without a peer"
		}
	case !l.IsValid() || !p.IsValid() || c.Local.Port() == 0 || c.Remote.Port() == 0:
		why = "no address"
	case l.Is4() != p.Is4() || l.Is4() != (c.Family == unix.AF_INET) || l.Is4In6() != p.Is4In6():
		why = fmt.Sprintf("addresses of different families: %v and %v", l, p)
	}
	if why != "" {
		return fmt.Errorf("not a connection: %s: %w", why, unix.EINVAL)
	}
	return nil
}

// prepare does on the unconnected socket all that can be done there.
func (r *restorer) prepare() error {
	// What was set on the way and is not in c.Options goes back to this.
	now := Conn{Family: r.c.Family}
	if err := ReadOptions(r.fd, &now); err != nil {
		return err
	}
	opts := make(Options, len(now.Options))
	for _, name := range []string{"SO_SNDBUF", "SO_RCVBUF", "SO_BUF_LOCK", "TCP_NOTSENT_LOWAT"} {
		if v, ok := now.Options[name]; ok {
			opts[name] = v
		}
	}
	maps.Copy(opts, r.c.Options)
	r.c.Options = opts
	if reuse, ok := opts["SO_REUSEADDR"]; ok {
		r.s.reuse = reuse
	}
	if err := writeOptions(r.fd, &r.c, beforeBind); err != nil {
		return err
	}
	if err := r.makeRoom(); err != nil {
		return err
	}
	// Without window scaling the kernel must not choose a scale for us at
	// connect: with this clamp it chooses 0 (tcp_select_initial_window).
	if r.c.State != SynSent && r.c.OptMask&OptWscale == 0 {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, 65535); err != nil {
			return os.NewSyscallError("setsockopt TCP_WINDOW_CLAMP", err)
		}
	}
	return nil
}

// makeRoom gives the queues room for what goes into them, and what the
// kernel adds to each piece.
func (r *restorer) makeRoom() error {
	const extra = 64 << 10
	for _, o := range []struct {
		name  string
		level int
		opt   int
		v     int
	}{
		{"SO_RCVBUFFORCE", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, max(len(r.c.Recv)+extra, int(r.c.Options["SO_RCVBUF"]/2))},
		{"SO_SNDBUFFORCE", unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, max(len(r.c.Send)+extra, int(r.c.Options["SO_SNDBUF"]/2))},
		{"TCP_NOTSENT_LOWAT", unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, -1},
	} {
		if err := unix.SetsockoptInt(r.fd, o.level, o.opt, o.v); err != nil {
			return os.NewSyscallError("setsockopt "+o.name, err)
		}
	}
	return nil
}

// run restores on the prepared socket.
func (r *restorer) run() error {
	c := &r.c
	if c.State == Close && !c.Remote.IsValid() {
		return r.unconnected()
	}
	if err := r.bind(); err != nil {
		return err
	}
	if c.State == SynSent {
		return r.synSent()
	}
	if peerFIN[c.State] || ackedFIN[c.State] {
		var err error
		if r.peer, err = newForger(r.fd, c); err != nil {
			return err
		}
	}
	// From here on the socket is found by packets of the peer. None may
	// come between the pieces of a queue.
	if err := attachFilter(r.fd, dropUnmarked); err != nil {
		return err
	}
	r.s.own = true
	for _, step := range []func() error{r.connect, r.negotiated, r.fillQueues, r.settle, r.replayFINs, r.verify} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// unconnected restores a socket that has no peer.
func (r *restorer) unconnected() error {
	if r.c.Local.Port() != 0 {
		if err := r.bind(); err != nil {
			return err
		}
	}
	return writeOptions(r.fd, &r.c, afterQueues)
}

// verify tells whether the socket is what it should be.
func (r *restorer) verify() error {
	info, err := readInfo(r.fd)
	if err == nil && info.state != r.c.State {
		err = fmt.Errorf("the socket came to state %v: %w", info.state, unix.EPROTO)
	}
	return err
}
