package worker

import "sync/atomic"

// A Slot is one seccomp call that is being answered. It lies in memory that
// the keeper shares: the kernel writes the notification right into it, so
// there is no moment at which a call was taken and only a process that may
// die knows of it.
type Slot struct {
	Run   atomic.Uint64 // Run.ID; 0: the slot is empty
	Notif Notif
	_     [40]byte // 128 bytes in all
}

// A Notif is struct seccomp_notif of <linux/seccomp.h>.
type Notif struct {
	ID    uint64
	PID   uint32 // of the thread, in the daemon's pid namespace
	Flags uint32
	NR    int32
	Arch  uint32
	IP    uint64
	Args  [6]uint64
}

// Clear empties the slot. The kernel wants the notification zeroed.
func (s *Slot) Clear() {
	s.Run.Store(0)
	s.Notif = Notif{}
}

// Slots hand out records in memory that the keeper shares.
type Slots interface {
	// Take returns an empty slot, nil if all are in use.
	Take() *Slot
	// Put gives back a slot, cleared.
	Put(*Slot)
}
