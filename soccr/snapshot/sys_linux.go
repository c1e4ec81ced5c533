package snapshot

import (
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// mapMemory maps the values of an array map (BPF_F_MMAPABLE).
func mapMemory(m *ebpf.Map) ([]byte, error) {
	stride := (uint64(m.ValueSize()) + 7) &^ 7
	page := uint64(os.Getpagesize())
	size := (stride*uint64(m.MaxEntries()) + page - 1) &^ (page - 1)
	b, err := unix.Mmap(m.FD(), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return b, os.NewSyscallError("mmap", err)
}

// slotsIn looks at memory as slots, as many as fit.
func slotsIn(b []byte) []bpfSlot {
	const size = unsafe.Sizeof(bpfSlot{})
	if uintptr(len(b)) < size {
		return nil
	}
	return unsafe.Slice((*bpfSlot)(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))/size)
}

// controlIn looks at memory as the control structure.
func controlIn(b []byte) *bpfControl {
	return (*bpfControl)(unsafe.Pointer(&b[:unsafe.Sizeof(bpfControl{})][0]))
}
