package keeper

import (
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/worker"
)

// slotCount bounds the stacks with runs plus the calls answered at a time.
const slotCount = 8192

const slotBytes = slotCount * int(unsafe.Sizeof(worker.Slot{}))

// Slots is memory that the daemon and its keeper share.
type Slots struct {
	file *os.File
	all  []worker.Slot

	mu   sync.Mutex // guards free
	free []int32
}

var _ worker.Slots = (*Slots)(nil)

// NewSlots makes the memory.
func NewSlots() (*Slots, error) {
	fd, err := unix.MemfdCreate("stackfs-slots", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "slots")
	if err := f.Truncate(int64(slotBytes)); err != nil {
		f.Close()
		return nil, err
	}
	return OpenSlots(f)
}

// OpenSlots maps the memory behind f, which it owns from then on.
func OpenSlots(f *os.File) (*Slots, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, slotBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map slots: %w", err)
	}
	s := &Slots{file: f, all: unsafe.Slice((*worker.Slot)(unsafe.Pointer(&b[0])), slotCount)}
	for i := slotCount - 1; i >= 0; i-- {
		s.free = append(s.free, int32(i))
	}
	return s, nil
}

// Take returns an empty slot, nil if all are in use.
func (s *Slots) Take() *worker.Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 {
		return nil
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	return &s.all[i]
}

// Put clears and gives back a slot.
func (s *Slots) Put(slot *worker.Slot) {
	slot.Clear()
	i := (uintptr(unsafe.Pointer(slot)) - uintptr(unsafe.Pointer(&s.all[0]))) / unsafe.Sizeof(*slot)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, int32(i))
}

// inFlight calls fn with the run and the notification id of every call that
// was taken and not answered.
func (s *Slots) inFlight(fn func(run, id uint64)) {
	for i := range s.all {
		if run, id := s.all[i].Run.Load(), s.all[i].Notif.ID; run != 0 && id != 0 {
			fn(run, id)
		}
	}
}
