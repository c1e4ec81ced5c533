package snapshot

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// facts are what the self-test found out about the kernel. They stay as they
// are.
type facts struct {
	pageBase uint64             // see struct control in bpf/snapshot.h
	hz       int64              // jiffies in a second
	known    []soccr.OptionName // the options that there are
}

// An engine is the program with its maps, loaded into the kernel. It makes
// one pass at a time.
type engine struct {
	facts     *facts
	passes    *atomic.Int64
	objs      bpfObjects
	iter      *link.Iter
	arenaSpec *ebpf.MapSpec

	memory  [][]byte // mappings, undone by release
	slots   []bpfSlot
	control *bpfControl
	arena   *arena

	patience time.Duration // how long a pass may take

	// reading is closed when the iterator returned for which a pass did not
	// want to wait any longer (ErrStuck).
	reading chan struct{}
}

// newEngine loads the program, which counts its passes in passes. The caller
// releases the engine.
func newEngine(f *facts, passes *atomic.Int64) (e *engine, err error) {
	e = &engine{facts: f, passes: passes, patience: patience}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.release())
			e = nil
		}
	}()
	spec, err := loadBpf()
	if err != nil {
		return e, err
	}
	e.arenaSpec = spec.Maps[bpfMapArenas].InnerMap
	if err := spec.LoadAndAssign(&e.objs, nil); err != nil {
		return e, explain(err)
	}
	if e.iter, err = link.AttachIter(link.IterOptions{Program: e.objs.Take}); err != nil {
		return e, explain(fmt.Errorf("attach: %w", err))
	}
	slots, err := e.mapMemory(e.objs.Slots)
	if err != nil {
		return e, err
	}
	control, err := e.mapMemory(e.objs.Controls)
	if err != nil {
		return e, err
	}
	e.slots, e.control = slotsIn(slots)[:maxSlots], controlIn(control)
	e.control.PageBase = f.pageBase
	return e, e.setArena(arenaBlocks[0])
}

func (e *engine) mapMemory(m *ebpf.Map) ([]byte, error) {
	b, err := mapMemory(m)
	if err != nil {
		return nil, fmt.Errorf("map %v: %w", m, err)
	}
	e.memory = append(e.memory, b)
	return b, nil
}

// release frees everything. The engine is of no use then.
func (e *engine) release() error {
	var errs []error
	if e.iter != nil {
		errs = append(errs, e.iter.Close())
	}
	e.slots, e.control = nil, nil
	for _, b := range e.memory {
		errs = append(errs, unix.Munmap(b))
	}
	e.memory = nil
	if e.arena != nil {
		errs = append(errs, e.arena.Close())
		e.arena = nil
	}
	return errors.Join(append(errs, e.objs.Close())...)
}

// grow makes the arena hold that many bytes.
func (e *engine) grow(bytes int64) error {
	for _, blocks := range arenaBlocks {
		if int64(blocks)*blockHolds >= bytes {
			if blocks <= e.arena.blocks() {
				return nil
			}
			return e.setArena(blocks)
		}
	}
	return fmt.Errorf("an arena for %d bytes: %w", bytes, unix.E2BIG)
}

// setArena puts an empty arena of that size in the place of the one that is
// there.
func (e *engine) setArena(blocks int) error {
	a, err := newArena(e.arenaSpec, blocks)
	if err != nil {
		return err
	}
	if err := e.objs.Arenas.Put(uint32(0), a.m); err != nil {
		return errors.Join(fmt.Errorf("install an arena: %w", err), a.Close())
	}
	old := e.arena
	e.arena = a
	if old == nil {
		return nil
	}
	return old.Close()
}
