package snapshot

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// idleTime is how long a large arena is kept after its last use.
const idleTime = 30 * time.Second

// A Snapshotter takes snapshots of TCP connections. Its methods can be
// called from several goroutines. While idle it keeps 1.4 MiB of the kernel's
// memory.
type Snapshotter struct {
	log *slog.Logger

	objs      bpfObjects
	iter      *link.Iter
	arenaSpec *ebpf.MapSpec
	known     []soccr.OptionName // what this kernel has
	hz        int64              // jiffies in a second

	passes atomic.Int64

	// pass is held while the maps are in use. What follows is guarded by it.
	pass    sync.Mutex
	memory  [][]byte // mappings, undone by Close
	slots   []bpfSlot
	control *bpfControl
	arena   *arena
	used    time.Time // begin of the last pass
	shrink  *time.Timer

	mu      sync.Mutex // guards the fields below; taken after pass
	pending map[any]*batch
	closed  bool

	running sync.WaitGroup // batches
}

// New loads the program, calibrates it and compares snapshots of connections
// of its own with what it knows about them. That takes about 0.1 s. It needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN: the connections are in a network namespace
// that it makes and leaves behind empty.
//
// Its error says why there can be no live snapshots on this machine.
func New(log *slog.Logger) (s *Snapshotter, err error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("live snapshots on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	began := time.Now()
	s = &Snapshotter{log: log, pending: make(map[any]*batch)}
	defer func() {
		if err != nil {
			s.release()
			s = nil
		}
	}()
	if err := s.load(); err != nil {
		return s, err
	}
	loaded := time.Now()
	if err := s.selfTest(); err != nil {
		return s, fmt.Errorf("self-test: %w", err)
	}
	log.Debug("live snapshots", "load", loaded.Sub(began), "self-test", time.Since(loaded), "hz", s.hz)
	return s, nil
}

func (s *Snapshotter) load() error {
	spec, err := loadBpf()
	if err != nil {
		return err
	}
	s.arenaSpec = spec.Maps[bpfMapArenas].InnerMap
	if err := spec.LoadAndAssign(&s.objs, nil); err != nil {
		return explain(err)
	}
	if s.iter, err = link.AttachIter(link.IterOptions{Program: s.objs.Take}); err != nil {
		return explain(fmt.Errorf("attach: %w", err))
	}
	slots, err := s.mapMemory(s.objs.Slots)
	if err != nil {
		return err
	}
	control, err := s.mapMemory(s.objs.Controls)
	if err != nil {
		return err
	}
	s.slots, s.control = slotsIn(slots)[:maxSlots], controlIn(control)
	return s.setArena(arenaBlocks[0])
}

func (s *Snapshotter) mapMemory(m *ebpf.Map) ([]byte, error) {
	b, err := mapMemory(m)
	if err != nil {
		return nil, fmt.Errorf("map %v: %w", m, err)
	}
	s.memory = append(s.memory, b)
	return b, nil
}

// explain adds to an error of loading what the machine lacks.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN: %w", err)
	case errors.Is(err, unix.EINVAL) && lockdown():
		return fmt.Errorf("the kernel is locked down (confidentiality): its memory must not be read: %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("needs Linux 6.1 with BTF: %w", err)
	}
	return err
}

// Close ends what is under way, then frees everything. Take returns ErrClosed
// from then on. Close again does nothing.
func (s *Snapshotter) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
	return s.release()
}

func (s *Snapshotter) release() error {
	s.pass.Lock()
	defer s.pass.Unlock()
	var errs []error
	if s.iter != nil {
		errs = append(errs, s.iter.Close())
	}
	s.slots, s.control = nil, nil
	for _, b := range s.memory {
		errs = append(errs, unix.Munmap(b))
	}
	s.memory = nil
	if s.arena != nil {
		errs = append(errs, s.arena.Close())
		s.arena = nil
	}
	errs = append(errs, s.objs.Close())
	return errors.Join(errs...)
}

// Describe returns a line for people.
func (s *Snapshotter) Describe() string {
	s.pass.Lock()
	defer s.pass.Unlock()
	blocks := 0
	if s.arena != nil {
		blocks = s.arena.blocks()
	}
	return fmt.Sprintf("bpf: iter/tcp, %d passes, arena %d MiB", s.passes.Load(), blocks)
}

// lockdown tells whether the kernel hides its memory from root.
func lockdown() bool {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	return err == nil && strings.Contains(string(b), "[confidentiality]")
}
