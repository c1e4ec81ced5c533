package soccr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Every restore but that of a socket without a peer goes through ESTABLISHED,
// or through the SYN of SYN_SENT.

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
