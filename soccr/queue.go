package soccr

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

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

// queueSeq returns the sequence number at the end of a queue, and leaves
// that queue selected.
func queueSeq(fd int, q Queue) (uint32, error) {
	if err := selectQueue(fd, q); err != nil {
		return 0, err
	}
	seq, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
	return uint32(seq), os.NewSyscallError("getsockopt TCP_QUEUE_SEQ", err)
}

// setQueueSeq sets where an empty queue of an unconnected socket begins.
func setQueueSeq(fd int, q Queue, seq uint32) error {
	if err := selectQueue(fd, q); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt TCP_QUEUE_SEQ",
		unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ, int(int32(seq))))
}

// readQueues reads the bytes of both queues into s.recv and s.send.
func (s *Socket) readQueues(d *Data) error {
	// One byte more than there should be, to notice when there are more.
	nr, ns := int(d.InqLen)+1, int(d.OutqLen)+1
	buf := s.buf[:cap(s.buf)]
	if len(buf) < nr+ns {
		buf = make([]byte, nr+ns)
	}
	restore, err := noPeekOffset(s.fd)
	if err != nil {
		return err
	}
	s.recv, err = peekQueue(s.fd, RecvQueue, buf[:nr:nr], d)
	if err == nil {
		s.send, err = peekQueue(s.fd, SendQueue, buf[nr:nr+ns:nr+ns], d)
	}
	return errors.Join(err, restore(), selectQueue(s.fd, noQueue))
}

// peekQueue reads a queue, of which d tells the length, into buf, which is
// one byte longer.
func peekQueue(fd int, q Queue, buf []byte, d *Data) ([]byte, error) {
	want := len(buf) - 1
	// Peeking into an empty receive queue would take the error that waits
	// for the owner.
	if want == 0 && !(q == SendQueue && d.State == SynSent) {
		return nil, nil
	}
	if err := selectQueue(fd, q); err != nil {
		return nil, err
	}
	n, err := peek(fd, buf, 0)
	if err == unix.EAGAIN {
		n, err = 0, nil
	}
	switch {
	case err != nil:
		return nil, os.NewSyscallError("recv MSG_PEEK", err)
	case d.State == SynSent && n > 0:
		return nil, &UnsaveableError{Reason: "data in the SYN (TCP Fast Open)"}
	case n < want && q == RecvQueue: // reading stops at the urgent mark
		if now, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err == nil && now == want {
			return nil, &UnsaveableError{Reason: "urgent data"}
		}
		return nil, ErrChanged
	case n != want:
		return nil, ErrChanged
	}
	return buf[:n:n], nil
}

// checkUrgent refuses urgent data in the receive queue: the place of its
// mark in the stream would be lost. It cannot see that of the send queue.
func (s *Socket) checkUrgent(state State, inq uint32) error {
	if state == SynSent {
		return nil
	}
	var b [1]byte
	n, err := peek(s.fd, b[:], unix.MSG_OOB)
	if err == nil && n == 1 || err == unix.EAGAIN {
		return &UnsaveableError{Reason: "1 byte of urgent data"}
	}
	at, err := unix.IoctlGetInt(s.fd, unix.SIOCATMARK)
	if err != nil {
		return os.NewSyscallError("ioctl SIOCATMARK", err)
	}
	if at != 0 {
		return &UnsaveableError{Reason: "urgent data"}
	}
	// An urgent byte that was read out of band is a hole in the queue until
	// the owner reads past it. SIOCINQ stops there, unless in-line.
	inline, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE)
	if err != nil || inline != 0 || inq == 0 {
		return os.NewSyscallError("getsockopt SO_OOBINLINE", err)
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_OOBINLINE", err)
	}
	all, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
	if rerr := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 0); rerr != nil {
		return fmt.Errorf("setsockopt SO_OOBINLINE back to 0: %w", rerr)
	}
	if err != nil {
		return os.NewSyscallError("ioctl SIOCINQ", err)
	}
	if uint32(all) != inq {
		return &UnsaveableError{Reason: "urgent data"}
	}
	return nil
}

// noPeekOffset switches SO_PEEK_OFF off, which peeking would follow and
// move (TCP has it since 6.9), and returns what puts it back.
func noPeekOffset(fd int) (func() error, error) {
	off, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	if notThere(err) || err == nil && off < 0 {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("getsockopt SO_PEEK_OFF", err)
	}
	set := func(v int) error {
		return os.NewSyscallError("setsockopt SO_PEEK_OFF", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, v))
	}
	return func() error { return set(off) }, set(-1)
}

// peek receives without taking and without waiting.
func peek(fd int, b []byte, flags int) (n int, err error) {
	err = retryEINTR(func() error {
		n, _, err = unix.Recvfrom(fd, b, flags|unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err
	})
	return n, err
}

// appendQueue puts bytes at the end of the selected queue of a socket in
// repair mode, or sends them where it is not in repair mode. The kernel may
// have no room for all of them in one piece.
func appendQueue(fd int, b []byte) error {
	chunk := 1 << 20
	for len(b) > 0 {
		var n int
		err := retryEINTR(func() (err error) {
			n, err = unix.SendmsgN(fd, b[:min(chunk, len(b))], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			return err
		})
		switch {
		case err == nil && n > 0:
			b = b[n:]
		case chunk > 1024:
			chunk /= 2
		default:
			if err == nil {
				err = unix.ENOBUFS
			}
			return fmt.Errorf("%d bytes do not fit: %w", len(b), err)
		}
	}
	return nil
}

// retryEINTR calls again what a signal interrupted. Go's runtime sends its
// threads many.
func retryEINTR(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
