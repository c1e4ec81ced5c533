package soccr

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Save reads all of the connection but addresses and options, and keeps the
// bytes of the queues for [Socket.QueueBytes]. It can be called again.
//
// It returns ErrChanged if a number moved while it read, because the owner
// or the peer was not held: nothing of what it read is to be trusted then.
// It returns an [*UnsaveableError] for kTLS and other ULPs, TCP-AO, urgent
// data that came in and data in the SYN of TCP Fast Open; what only
// [Saveable] finds out, or nobody, is listed there.
func (s *Socket) Save() (*Data, error) {
	if err := checkOptions(s.fd); err != nil {
		return nil, err
	}
	m, err := s.measure()
	if err != nil {
		return nil, err
	}
	if !m.State.Saveable() {
		return nil, &UnsaveableError{Reason: "in state " + m.State.String()}
	}
	if err := s.checkUrgent(m.State, m.InqLen); err != nil {
		return nil, err
	}
	if err := s.readQueues(&m); err != nil {
		return nil, err
	}
	again, err := s.measure()
	if err != nil {
		return nil, err
	}
	clock := m.Timestamp
	if m.Timestamp = again.Timestamp; m != again {
		return nil, ErrChanged
	}
	m.Timestamp = clock
	return &m, nil
}

// measure reads all numbers and leaves no queue selected.
func (s *Socket) measure() (Data, error) {
	info, err := readInfo(s.fd)
	if err != nil {
		return Data{}, err
	}
	d := Data{State: info.state, OptMask: info.options, SndWscale: info.sndWscale, RcvWscale: info.rcvWscale}
	for _, q := range []struct {
		name string
		req  uint
		to   *uint32
	}{
		{"SIOCINQ", unix.SIOCINQ, &d.InqLen},
		{"SIOCOUTQ", unix.SIOCOUTQ, &d.OutqLen},
		{"SIOCOUTQNSD", unix.SIOCOUTQNSD, &d.UnsqLen},
	} {
		n, err := unix.IoctlGetInt(s.fd, q.req)
		if err != nil {
			return Data{}, os.NewSyscallError("ioctl "+q.name, err)
		}
		*q.to = uint32(n)
	}
	for _, o := range []struct {
		name string
		opt  int
		to   *uint32
	}{
		// In repair mode TCP_MAXSEG is the peer's limit.
		{"TCP_MAXSEG", unix.TCP_MAXSEG, &d.MSSClamp},
		{"TCP_TIMESTAMP", unix.TCP_TIMESTAMP, &d.Timestamp},
	} {
		v, err := unix.GetsockoptInt(s.fd, unix.SOL_TCP, o.opt)
		if err != nil {
			return Data{}, os.NewSyscallError("getsockopt "+o.name, err)
		}
		*o.to = uint32(v)
	}
	if d.InqSeq, err = queueSeq(s.fd, RecvQueue); err == nil {
		d.OutqSeq, err = queueSeq(s.fd, SendQueue)
	}
	if qerr := selectQueue(s.fd, noQueue); err == nil {
		err = qerr
	}
	if err == nil {
		err = readWindow(s.fd, &d)
	}
	d.leaveOutFIN()
	return d, err
}

// leaveOutFIN corrects the lengths of the send queue, in which the kernel
// counts our FIN as a byte.
func (d *Data) leaveOutFIN() {
	switch d.State {
	case FinWait1, Closing, LastAck:
		if d.OutqLen > 0 {
			d.OutqLen--
		}
		if d.UnsqLen > 0 {
			d.UnsqLen--
		}
	case Close: // what was not acknowledged never will be
		d.OutqLen, d.UnsqLen = 0, 0
	}
}

// Conn saves the connection with its addresses and options. The result is
// complete but for Meta.Stack and Meta.Version, and Meta.Live is set: who
// ends the connection clears it. Its errors are those of [Socket.Save].
func (s *Socket) Conn() (*Conn, error) {
	d, err := s.Save()
	if err != nil {
		return nil, err
	}
	c := &Conn{Data: *d, Family: s.family, Recv: s.recv, Send: s.send}
	if c.Local, c.Remote, err = addresses(s.fd); err != nil {
		return nil, err
	}
	if err := ReadOptions(s.fd, c); err != nil {
		return nil, err
	}
	c.Options["SO_REUSEADDR"] = s.reuse
	// Before the peer told its own limit, the clamp is the owner's if that
	// is not the protocol's default (tcp_v4_connect, tcp_v6_connect).
	if c.State == SynSent && c.MSSClamp != 536 && c.MSSClamp != 1220 {
		c.Options["TCP_MAXSEG"] = int64(c.MSSClamp)
	}
	if c.Shutdown, err = shutdownOf(s.fd, c.State); err != nil {
		return nil, err
	}
	info, err := readInfo(s.fd)
	if err != nil {
		return nil, err
	}
	c.Info = info.forPeople
	if c.Info.Lost, err = lost(s.fd); err != nil {
		return nil, err
	}
	c.Meta, err = readMeta(s.fd)
	return c, err
}

// shutdownOf tells which ends are shut down. Sending is by the state;
// POLLRDHUP tells receiving, also when the owner shut it down itself.
func shutdownOf(fd int, state State) (uint8, error) {
	events, err := poll(fd, unix.POLLRDHUP)
	if err != nil {
		return 0, err
	}
	var how uint8
	if events&unix.POLLRDHUP != 0 {
		how |= 1
	}
	switch state {
	case FinWait1, FinWait2, Closing, LastAck:
		how |= 2
	case Close:
		how |= 3
	}
	return how, nil
}

// lost names what the socket has that no restore brings back.
func lost(fd int) ([]string, error) {
	var names []string
	_, n, err := readFilter(fd)
	if err != nil || n > 0 {
		names = append(names, "socket filter")
	}
	events, err := poll(fd, 0)
	if err != nil {
		return nil, err
	}
	if events&unix.POLLERR != 0 {
		names = append(names, "pending error")
	}
	return names, nil
}

// poll is poll(2) without waiting.
func poll(fd int, events int16) (int16, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	err := retryEINTR(func() error {
		_, err := unix.Poll(p, 0)
		return err
	})
	return p[0].Revents, os.NewSyscallError("poll", err)
}

func readMeta(fd int) (Meta, error) {
	m := Meta{Live: true, Method: "repair", Time: time.Now()}
	var err error
	if m.Cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return m, os.NewSyscallError("getsockopt SO_COOKIE", err)
	}
	// Since 5.14.
	if m.NetNS, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil && !notThere(err) {
		return m, os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return m, fmt.Errorf("fstat socket: %w", err)
	}
	m.Inode, m.UID = st.Ino, st.Uid
	return m, nil
}
