package fast

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// maxSlots bounds the slots of a page.
const maxSlots = 1024

// A page is the memory that the workers of a group share. They write to it
// what they like: nothing that matters is decided by it.
type page struct {
	slots int

	mu  sync.RWMutex // guards mem, which is not to be unmapped while it is read
	mem []byte       // nil: closed
}

// newPage makes a page and the file of it. The page stays mapped as long as
// the group is there.
func newPage(mode int) (*page, *os.File, error) {
	slots, err := possibleCPUs()
	if err != nil {
		return nil, nil, err
	}
	fd, err := unix.MemfdCreate("stackfs-page", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "page")
	p := &page{slots: slots}
	if err := p.fill(fd, mode); err != nil {
		f.Close()
		return nil, nil, err
	}
	return p, f, nil
}

func (p *page) fill(fd, mode int) error {
	size := uapi.SizePage + p.slots*uapi.SizeSlot
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return os.NewSyscallError("ftruncate", err)
	}
	head, err := (&uapi.Page{Magic: uapi.PageMagic, Version: uapi.PageVersion, Slots: uint32(p.slots), Mode: uint32(mode)}).MarshalBinary()
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(fd, head, 0); err != nil {
		return os.NewSyscallError("pwrite", err)
	}
	// Nobody can make it smaller below our eyes.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	p.mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	return os.NewSyscallError("mmap", err)
}

func (p *page) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mem != nil {
		_ = unix.Munmap(p.mem)
		p.mem = nil
	}
}

// A slotView is what a slot says, at one moment of each field.
type slotView struct {
	cpu                    int
	tid, flags             uint32
	clone                  uint64
	local, remote, arrived uint64
}

// slotViews returns the slots that are or were in use.
func (p *page) slotViews() []slotView {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.mem == nil {
		return nil
	}
	var list []slotView
	for cpu := range p.slots {
		s := (*uapi.Slot)(unsafe.Pointer(&p.mem[uapi.SizePage+cpu*uapi.SizeSlot]))
		v := slotView{
			cpu: cpu, tid: atomic.LoadUint32(&s.Tid), flags: atomic.LoadUint32(&s.Flags), clone: atomic.LoadUint64(&s.Clone),
			local: atomic.LoadUint64(&s.Local), remote: atomic.LoadUint64(&s.Remote), arrived: atomic.LoadUint64(&s.Arrived),
		}
		if v.tid != 0 || v.local+v.remote+v.arrived != 0 {
			list = append(list, v)
		}
	}
	return list
}

// A headView is what the head of a page says.
type headView struct {
	workers, reason uint32
	since           time.Duration // before now
	shared          uint64
}

func (p *page) headView() headView {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.mem == nil {
		return headView{}
	}
	h := (*uapi.Page)(unsafe.Pointer(&p.mem[0]))
	v := headView{workers: min(atomic.LoadUint32(&h.Workers), uint32(p.slots)), reason: atomic.LoadUint32(&h.Reason), shared: atomic.LoadUint64(&h.Shared)}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil {
		if since := atomic.LoadUint64(&h.Since); since <= uint64(now.Nano()) {
			v.since = time.Duration(uint64(now.Nano()) - since)
		}
	}
	return v
}

// possibleCPUs returns how many processors the machine can have: the highest
// number in a list like "0-3,8" and one.
func possibleCPUs() (int, error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return 0, err
	}
	last := 0
	for i := 0; i < len(text); i++ {
		n := 0
		for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
			n = n*10 + int(text[i]-'0')
		}
		last = max(last, n)
	}
	if last >= maxSlots {
		return 0, fmt.Errorf("%d processors are more than %d: %w", last+1, maxSlots, unix.EOPNOTSUPP)
	}
	return last + 1, nil
}
