package soccr

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

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
	// Asked of the socket: the options may be the caller's work.
	nodelay, err := unix.GetsockoptInt(r.fd, unix.SOL_TCP, unix.TCP_NODELAY)
	if err != nil {
		return os.NewSyscallError("getsockopt TCP_NODELAY", err)
	}
	cork, err := unix.GetsockoptInt(r.fd, unix.SOL_TCP, unix.TCP_CORK)
	if err != nil {
		return os.NewSyscallError("getsockopt TCP_CORK", err)
	}
	r.s.nodelay, r.s.kick = nodelay != 0, c.UnsqLen > 0 && cork == 0
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
