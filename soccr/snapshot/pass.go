package snapshot

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// maxSlots is how many sockets one pass takes: MAX_SLOTS of bpf/snapshot.h.
const maxSlots = 512

// largestShare is how large the arena becomes, in bytes, to take many
// connections in fewer passes. One connection may need more.
const largestShare = 64 << 20

// takeAll fills in the results of a namespace, pass by pass. The caller
// holds s.pass. It returns an error if a pass cannot be made at all.
func (s *Snapshotter) takeAll(ns NetNS, results map[uint64]*shared) error {
	todo := slices.Collect(maps.Keys(results))
	again := make(map[uint64]bool) // was looked for once in vain
	for len(todo) > 0 {
		now := todo[:min(len(todo), maxSlots)]
		slots, err := s.onePass(ns, now)
		if err != nil {
			return err
		}
		names, err := s.ifnames(ns, slots)
		if err != nil {
			return err
		}
		var left []uint64
		var need, largest int64 // bytes of those for which there was no room
		for i := range slots {
			o := &slots[i]
			switch cookie := now[i]; {
			case o.Status == bpfStatusNO_ROOM && o.queued() <= largestQueues:
				left = append(left, cookie)
				need += o.queued()
				largest = max(largest, o.queued())
			case o.Status == bpfStatusUNSEEN && !again[cookie]:
				// When it is short of memory the iterator may leave out
				// sockets. Those that are gone cost a second look.
				again[cookie] = true
				left = append(left, cookie)
			default:
				s.fill(results[cookie], o, cookie, names)
			}
		}
		if need > 0 {
			if err := s.grow(max(largest, min(need, largestShare))); err != nil {
				return err
			}
		}
		todo = append(left, todo[len(now):]...)
	}
	return nil
}

// fill makes a result of a slot that is final.
func (s *Snapshotter) fill(r *shared, o *bpfSlot, cookie uint64, names map[int32]string) {
	r.Conn, r.Err, r.Held = nil, o.failure(), o.held()
	r.repair = o.Repair != 0
	if r.Err != nil {
		return
	}
	if o.Cookie != cookie {
		r.Err = fmt.Errorf("slot of connection %d has %d: %w", cookie, o.Cookie, ErrQueue)
		return
	}
	if r.Conn, r.Err = s.conn(o, s.arena, names[o.BoundDevIf]); r.Err == nil {
		r.Conn.Meta.Time = time.Now()
	}
}

// onePass runs the iterator once for at most maxSlots cookies. The slots that
// it returns are valid until the next pass, as is what the arena has.
func (s *Snapshotter) onePass(ns NetNS, cookies []uint64) ([]bpfSlot, error) {
	slots := s.slots[:len(cookies)]
	clear(slots)
	s.arena.reset()
	s.control.Wanted = uint32(len(cookies))
	s.control.Block = 0
	s.control.Blocks = uint32(s.arena.blocks())
	s.used = time.Now()
	s.passes.Add(1)

	numbers := make([]uint32, len(cookies))
	for i := range numbers {
		numbers[i] = uint32(i)
	}
	if _, err := s.objs.Wanted.BatchUpdate(cookies, numbers, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("tell the wanted cookies: %w", err), s.forget(cookies))
	}
	err := s.iterate(ns)
	return slots, errors.Join(err, s.forget(cookies))
}

// forget empties the map of wanted cookies.
func (s *Snapshotter) forget(cookies []uint64) error {
	for _, cookie := range cookies {
		if err := s.objs.Wanted.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a cookie: %w", err)
		}
	}
	return nil
}

// iterate lets the kernel go through the sockets of a namespace: that of the
// thread that opens the iterator.
func (s *Snapshotter) iterate(ns NetNS) error {
	var it io.ReadCloser
	err := ns.Do(func() (err error) {
		it, err = s.iter.Open()
		return err
	})
	if err != nil {
		return err
	}
	defer it.Close()
	// The program writes a byte when it has seen all that is wanted, which
	// fills this buffer and thereby ends the read.
	var enough [1]byte
	for {
		switch n, err := it.Read(enough[:]); {
		case n > 0 || errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			// EAGAIN after a million sockets without output
			// (MAX_ITER_OBJECTS): the next read goes on.
		case err != nil:
			return fmt.Errorf("read the iterator: %w", err)
		}
	}
}

// ifnames returns the names of the interfaces that sockets are bound to.
func (s *Snapshotter) ifnames(ns NetNS, slots []bpfSlot) (map[int32]string, error) {
	names := make(map[int32]string)
	for i := range slots {
		if o := &slots[i]; o.Status == bpfStatusTAKEN && o.BoundDevIf != 0 {
			names[o.BoundDevIf] = ""
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return names, ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		defer unix.Close(fd)
		for index := range names {
			ifr, err := unix.NewIfreq("")
			if err == nil {
				ifr.SetUint32(uint32(index))
				err = unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr)
			}
			switch {
			case err == nil:
				names[index] = ifr.Name()
			case !errors.Is(err, unix.ENODEV): // deleted meanwhile
				return fmt.Errorf("ioctl SIOCGIFNAME %d: %w", index, err)
			}
		}
		return nil
	})
}

// grow makes the arena hold that many bytes. The caller holds s.pass.
func (s *Snapshotter) grow(bytes int64) error {
	for _, blocks := range arenaBlocks {
		if int64(blocks)*blockHolds >= bytes {
			if blocks <= s.arena.blocks() {
				return nil
			}
			return s.setArena(blocks)
		}
	}
	return fmt.Errorf("an arena for %d bytes: %w", bytes, unix.E2BIG)
}

// setArena puts an empty arena of that size in the place of the one that is
// there. The caller holds s.pass, or is New.
func (s *Snapshotter) setArena(blocks int) error {
	a, err := newArena(s.arenaSpec, blocks)
	if err != nil {
		return err
	}
	if err := s.objs.Arenas.Put(uint32(0), a.m); err != nil {
		a.Close()
		return fmt.Errorf("install an arena: %w", err)
	}
	old := s.arena
	s.arena = a
	if blocks > arenaBlocks[0] {
		s.shrinkLater()
	}
	if old == nil {
		return nil
	}
	return old.Close()
}

// shrinkLater gives the memory of a large arena back when there was no pass
// for a while. The caller holds s.pass.
func (s *Snapshotter) shrinkLater() {
	if s.shrink != nil {
		s.shrink.Reset(idleTime)
		return
	}
	s.shrink = time.AfterFunc(idleTime, func() {
		s.pass.Lock()
		defer s.pass.Unlock()
		switch {
		case s.arena == nil || s.arena.blocks() == arenaBlocks[0]:
		case time.Since(s.used) < idleTime:
			s.shrinkLater()
		default:
			if err := s.setArena(arenaBlocks[0]); err != nil {
				s.log.Warn("cannot make the snapshot arena small again", "err", err)
			}
		}
	})
}
