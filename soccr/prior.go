package soccr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A Prior is how a socket was before [Block] and [Pause]. Given to another
// process, by [Prior.MarshalBinary] and with a duplicate of the descriptor,
// it lets that one put everything back if the first dies.
type Prior struct {
	ReuseAddr int               // SO_REUSEADDR
	Filter    []unix.SockFilter // the classic filter; empty: none
}

// ReadPrior reads it. It returns ErrRepair if the socket is in repair mode
// already, and otherwise fails as [Block] does.
func ReadPrior(fd int) (Prior, error) {
	var p Prior
	on, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR)
	if err != nil {
		return p, os.NewSyscallError("getsockopt TCP_REPAIR", err)
	}
	if on != 0 {
		return p, ErrRepair
	}
	if p.ReuseAddr, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil {
		return p, os.NewSyscallError("getsockopt SO_REUSEADDR", err)
	}
	p.Filter, err = replaceableFilter(fd)
	return p, err
}

// Equal tells whether nothing has changed.
func (p Prior) Equal(q Prior) bool {
	return p.ReuseAddr == q.ReuseAddr && slices.Equal(p.Filter, q.Filter)
}

// priorHeader is the length of what precedes the filter: SO_REUSEADDR.
const priorHeader = 4

// MarshalBinary returns at most 32 KiB, for another process on this machine.
func (p Prior) MarshalBinary() ([]byte, error) {
	b := binary.NativeEndian.AppendUint32(nil, uint32(p.ReuseAddr))
	return binary.Append(b, binary.NativeEndian, p.Filter)
}

// UnmarshalBinary is the inverse of MarshalBinary.
func (p *Prior) UnmarshalBinary(b []byte) error {
	instruction := binary.Size(unix.SockFilter{})
	if len(b) < priorHeader || (len(b)-priorHeader)%instruction != 0 {
		return fmt.Errorf("how a socket was, in %d bytes: %w", len(b), unix.EBADMSG)
	}
	p.ReuseAddr = int(int32(binary.NativeEndian.Uint32(b)))
	p.Filter = make([]unix.SockFilter, (len(b)-priorHeader)/instruction)
	_, err := binary.Decode(b[priorHeader:], binary.NativeEndian, p.Filter)
	return err
}

// PutBack ends repair mode without a packet, puts SO_REUSEADDR back and, if
// the filter is that of [Block], the former one. What is as it was already
// stays so. It does all that it can, whatever fails.
func (p Prior) PutBack(fd int) error {
	err := setRepair(fd, repairOffNoWP)
	if serr := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, p.ReuseAddr); serr != nil {
		err = errors.Join(err, os.NewSyscallError("setsockopt SO_REUSEADDR", serr))
	}
	now, _, ferr := readFilter(fd)
	switch {
	case ferr == nil && slices.Equal(now, dropAll):
		ferr = (&Blocked{fd: fd, old: p.Filter}).Undo()
	case errors.Is(ferr, unix.EACCES): // an eBPF program: not ours
		ferr = nil
	}
	if err = errors.Join(err, ferr); err != nil {
		return fmt.Errorf("put the socket back as it was: %w", err)
	}
	return nil
}
