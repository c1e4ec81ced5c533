package soccr

import (
	"encoding/binary"
	"errors"
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
// its options are set by the caller ([WriteOptions]). The connection starts
// with Resume. For all else see the function [Restore].
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

func (r *restorer) bind() error {
	sa, err := sockaddr(r.fd, r.c.Local)
	if err != nil {
		return err
	}
	err = unix.Bind(r.fd, sa)
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("address %v is not on an interface of this stack, add it: bind: %w", r.c.Local.Addr(), err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("port %d needs CAP_NET_BIND_SERVICE: bind: %w", r.c.Local.Port(), err)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("a socket that does not share it is bound to %v: bind: %w", r.c.Local, err)
	}
	return os.NewSyscallError("bind", err)
}

// connect makes the socket ESTABLISHED, without a packet, where both queues
// begin.
func (r *restorer) connect() error {
	sendAt, recvAt := r.start()
	if err := setQueueSeq(r.fd, SendQueue, sendAt); err != nil {
		return err
	}
	if err := setQueueSeq(r.fd, RecvQueue, recvAt); err != nil {
		return err
	}
	return r.callConnect()
}

// start returns the sequence numbers of the first byte in each queue.
func (r *restorer) start() (sendAt, recvAt uint32) {
	c := &r.c
	sendAt, recvAt = c.OutqSeq-c.OutqLen, c.InqSeq-c.InqLen
	if ourFIN[c.State] {
		sendAt--
	}
	if peerFIN[c.State] {
		recvAt--
	}
	return sendAt, recvAt
}

func (r *restorer) callConnect() error {
	sa, err := sockaddr(r.fd, r.c.Remote)
	if err != nil {
		return err
	}
	err = unix.Connect(r.fd, sa)
	switch {
	// Its answer where the connection is in the table already
	// (__inet_check_established).
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("the connection %v to %v still exists here, end it first: connect: %w",
			r.c.Local, r.c.Remote, unix.EADDRINUSE)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return fmt.Errorf("no route to %v in this stack: connect: %w", r.c.Remote.Addr(), err)
	}
	return os.NewSyscallError("connect", err)
}

// synSent sends the SYN again, with the number it had. Nothing but the
// number survives in this state, so all else comes first.
func (r *restorer) synSent() error {
	if err := writeOptions(r.fd, &r.c, afterQueues); err != nil {
		return err
	}
	// Our SYN counts as the byte before. The kernel takes 0 for "choose".
	if err := setQueueSeq(r.fd, SendQueue, r.c.OutqSeq-1); err != nil {
		return err
	}
	flags, err := unix.FcntlInt(uintptr(r.fd), unix.F_GETFL, 0)
	if err != nil {
		return os.NewSyscallError("fcntl F_GETFL", err)
	}
	if err := unix.SetNonblock(r.fd, true); err != nil {
		return os.NewSyscallError("fcntl F_SETFL", err)
	}
	if err = setRepair(r.fd, repairOffNoWP); err == nil {
		if err = r.callConnect(); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		} else if err != nil {
			err = errors.Join(err, setRepair(r.fd, repairOn))
		}
	}
	if flags&unix.O_NONBLOCK == 0 {
		err = errors.Join(err, os.NewSyscallError("fcntl F_SETFL", unix.SetNonblock(r.fd, false)))
	}
	return err
}

// Option codes of a TCP header (RFC 9293, 7323, 2018), for
// TCP_REPAIR_OPTIONS.
const (
	tcpoptMSS       = 2
	tcpoptWindow    = 3
	tcpoptSACK      = 4
	tcpoptTimestamp = 8
)

// negotiated sets what the two SYNs agreed upon.
func (r *restorer) negotiated() error {
	c := &r.c
	var b []byte
	add := func(code, value uint32) {
		b = binary.NativeEndian.AppendUint32(b, code)
		b = binary.NativeEndian.AppendUint32(b, value)
	}
	if c.MSSClamp != 0 {
		add(tcpoptMSS, c.MSSClamp)
	}
	if c.OptMask&OptWscale != 0 {
		add(tcpoptWindow, c.SndWscale|c.RcvWscale<<16)
	}
	if c.OptMask&OptSACK != 0 {
		add(tcpoptSACK, 0)
	}
	if c.OptMask&OptTimestamps != 0 {
		add(tcpoptTimestamp, 0)
	}
	if len(b) > 0 {
		if err := setsockoptBytes(r.fd, unix.SOL_TCP, unix.TCP_REPAIR_OPTIONS, b); err != nil {
			return os.NewSyscallError("setsockopt TCP_REPAIR_OPTIONS", err)
		}
	}
	if c.OptMask&OptTimestamps == 0 {
		return nil
	}
	return os.NewSyscallError("setsockopt TCP_TIMESTAMP",
		unix.SetsockoptInt(r.fd, unix.SOL_TCP, unix.TCP_TIMESTAMP, int(int32(c.Timestamp))))
}

// fillQueues puts the bytes back. The window is still 0, so that nothing of
// what is unsent leaves.
func (r *restorer) fillQueues() error {
	c := &r.c
	if err := r.fill(RecvQueue, c.Recv); err != nil {
		return err
	}
	sent := len(c.Send) - int(c.UnsqLen)
	if err := r.fill(SendQueue, c.Send[:sent]); err != nil {
		return err
	}
	if c.UnsqLen == 0 {
		return nil
	}
	// In repair mode what is written counts as sent.
	if err := setRepair(r.fd, repairOffNoWP); err != nil {
		return err
	}
	err := appendQueue(r.fd, c.Send[sent:])
	if err != nil {
		err = fmt.Errorf("unsent bytes: %w", err)
	}
	return errors.Join(err, setRepair(r.fd, repairOn))
}

// fill appends bytes to a queue in repair mode.
func (r *restorer) fill(q Queue, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := selectQueue(r.fd, q); err != nil {
		return err
	}
	if err := appendQueue(r.fd, b); err != nil {
		return fmt.Errorf("%s: %w", q, err)
	}
	return selectQueue(r.fd, noQueue)
}

// String names the queue.
func (q Queue) String() string {
	switch q {
	case RecvQueue:
		return "receive queue"
	case SendQueue:
		return "send queue"
	}
	return fmt.Sprintf("queue %d", int(q))
}

// settle sets the windows and all that depends on them or would have been in
// the way. It comes before the FINs, so that it fails before the peer may
// hear of them.
func (r *restorer) settle() error {
	c := &r.c
	if c.HasWindow {
		d := c.Data
		if int32(d.RcvWup-r.rcvNxt()) > 0 { // the FIN is not there yet
			d.RcvWup = r.rcvNxt()
		}
		if err := writeWindow(r.fd, &d); err != nil {
			return err
		}
	}
	if err := writeOptions(r.fd, c, afterQueues); err != nil {
		return err
	}
	r.s.nodelay = c.Options["TCP_NODELAY"] != 0
	r.s.kick = c.UnsqLen > 0 && c.Options["TCP_CORK"] == 0
	return nil
}

// rcvNxt is the number that is expected next before the peer's FIN.
func (r *restorer) rcvNxt() uint32 {
	if peerFIN[r.c.State] {
		return r.c.InqSeq - 1
	}
	return r.c.InqSeq
}

// replayFINs takes the connection from ESTABLISHED to its state, by way of
// the FINs in the order in which they must have been. Meanwhile the socket
// can send nothing and has room for a FIN, which it refuses where its
// queue is as full as its buffer or (since 6.17) its window.
func (r *restorer) replayFINs() error {
	c := &r.c
	if c.State == Established {
		return r.shutdownRead()
	}
	if err := r.makeRoom(); err != nil {
		return err
	}
	if c.HasWindow {
		at := r.rcvNxt()
		if err := writeWindow(r.fd, &Data{SndWl1: at, RcvWup: at, RcvWnd: 65535}); err != nil {
			return err
		}
	}
	if err := r.passFINs(); err != nil {
		return err
	}
	if err := r.shutdownRead(); err != nil {
		return err
	}
	if c.HasWindow && c.State != Close {
		if err := writeWindow(r.fd, &c.Data); err != nil {
			return err
		}
	}
	return writeOptions(r.fd, c, afterQueues)
}

// shutdownRead repeats an owner's own end of reading.
func (r *restorer) shutdownRead() error {
	if r.c.Shutdown&1 == 0 || peerFIN[r.c.State] {
		return nil
	}
	return os.NewSyscallError("shutdown SHUT_RD", unix.Shutdown(r.fd, unix.SHUT_RD))
}

func (r *restorer) passFINs() error {
	c := &r.c
	// The peer's numbers: what it sent up to its FIN, and what it
	// acknowledged.
	seq, ack := r.rcvNxt(), c.OutqSeq-c.OutqLen
	if ourFIN[c.State] {
		ack--
	}
	switch c.State {
	case FinWait1:
		return r.shutdown()
	case FinWait2:
		if err := r.shutdown(); err != nil {
			return err
		}
		return r.peer.send(r.fd, seq, ack+1, flagACK, FinWait2)
	case Closing:
		if err := r.shutdown(); err != nil {
			return err
		}
		return r.peer.send(r.fd, seq, ack, flagFIN|flagACK, Closing)
	case CloseWait, LastAck, Close:
		if err := r.peer.send(r.fd, seq, ack, flagFIN|flagACK, CloseWait); err != nil || c.State == CloseWait {
			return err
		}
		if err := r.shutdown(); err != nil || c.State == LastAck {
			return err
		}
		return r.peer.send(r.fd, seq+1, ack+1, flagACK, Close)
	}
	return nil
}

// shutdown puts our FIN at the end of the send queue: as sent if all before
// it was, else as unsent, which it stays while the window is 0.
func (r *restorer) shutdown() error {
	q := SendQueue
	if r.c.UnsqLen > 0 {
		q = noQueue
	}
	if err := selectQueue(r.fd, q); err != nil {
		return err
	}
	if err := unix.Shutdown(r.fd, unix.SHUT_WR); err != nil {
		return os.NewSyscallError("shutdown SHUT_WR", err)
	}
	return selectQueue(r.fd, noQueue)
}

// verify tells whether the socket is what it should be.
func (r *restorer) verify() error {
	info, err := readInfo(r.fd)
	if err == nil && info.state != r.c.State {
		err = fmt.Errorf("the socket came to state %v: %w", info.state, unix.EPROTO)
	}
	return err
}

// unfilter takes away the filter of a restore.
func (s *Socket) unfilter() error {
	if !s.own {
		return nil
	}
	s.own = false
	return detachFilter(s.fd)
}
