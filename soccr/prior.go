package soccr

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A Prior is how a socket was before [Block] and [Pause]. It is plain data:
// given to another process with a duplicate of the descriptor, it lets that
// one put everything back if the first dies.
type Prior struct {
	ReuseAddr int               // SO_REUSEADDR
	Filter    []unix.SockFilter `json:",omitempty"` // the classic filter; empty: none
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
