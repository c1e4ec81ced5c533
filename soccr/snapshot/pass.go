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

// patience is how long a pass may take. It takes milliseconds, but the
// iterator waits for the lock of each socket, and who owns a socket can hold
// that for as long as he likes: by sending from memory that is not there yet
// (userfaultfd(2), a file of a FUSE server of his own).
const patience = 10 * time.Second

// takeAll fills in the results of a namespace, pass by pass. It returns an
// error if a pass cannot be made at all, or cannot be waited for: ErrStuck.
func (e *engine) takeAll(ns NetNS, results map[uint64]*shared) error {
	todo := slices.Collect(maps.Keys(results))
	again := make(map[uint64]bool) // was looked for once in vain
	for len(todo) > 0 {
		now := todo[:min(len(todo), maxSlots)]
		slots, err := e.onePass(ns, now)
		if err != nil {
			return err
		}
		names, err := ifnames(ns, slots)
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
				e.fill(results[cookie], o, cookie, names)
			}
		}
		if need > 0 {
			if err := e.grow(max(largest, min(need, largestShare))); err != nil {
				return err
			}
		}
		todo = append(left, todo[len(now):]...)
	}
	return nil
}

// fill makes a result of a slot that is final.
func (e *engine) fill(r *shared, o *bpfSlot, cookie uint64, names map[int32]string) {
	r.Conn, r.Err, r.Held = nil, o.failure(), o.held()
	r.repair = o.Repair != 0
	if r.Err != nil {
		return
	}
	if o.Cookie != cookie {
		r.Err = fmt.Errorf("slot of connection %d has %d: %w", cookie, o.Cookie, ErrQueue)
		return
	}
	if r.Conn, r.Err = o.conn(e.facts, e.arena, names[o.BoundDevIf]); r.Err == nil {
		r.Conn.Meta.Time = time.Now()
	}
}

// onePass runs the iterator once for at most maxSlots cookies. The slots that
// it returns are valid until the next pass, as is what the arena has.
func (e *engine) onePass(ns NetNS, cookies []uint64) ([]bpfSlot, error) {
	slots := e.slots[:len(cookies)]
	clear(slots)
	e.arena.reset()
	e.control.Wanted = uint32(len(cookies))
	e.control.Block = 0
	e.control.Blocks = uint32(e.arena.blocks())
	e.passes.Add(1)

	numbers := make([]uint32, len(cookies))
	for i := range numbers {
		numbers[i] = uint32(i)
	}
	if _, err := e.objs.Wanted.BatchUpdate(cookies, numbers, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("tell the wanted cookies: %w", err), e.forget(cookies))
	}
	err := e.iterate(ns)
	return slots, errors.Join(err, e.forget(cookies))
}

// forget empties the map of wanted cookies.
func (e *engine) forget(cookies []uint64) error {
	for left := cookies; len(left) > 0; {
		n, err := e.objs.Wanted.BatchDelete(left, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			n++ // it stops there
		} else if err != nil {
			return fmt.Errorf("forget the wanted cookies: %w", err)
		}
		left = left[n:]
	}
	return nil
}

// iterate lets the kernel go through the sockets of a namespace: that of the
// thread that opens the iterator. After ErrStuck the engine is still at work,
// until e.reading is closed.
func (e *engine) iterate(ns NetNS) error {
	var it io.ReadCloser
	err := ns.Do(func() (err error) {
		it, err = e.iter.Open()
		return err
	})
	if err != nil {
		return fmt.Errorf("open the iterator: %w", err)
	}
	reading, result := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(reading)
		defer it.Close()
		result <- readAll(it)
	}()
	timeout := time.NewTimer(e.patience)
	defer timeout.Stop()
	select {
	case <-reading:
		return <-result
	case <-timeout.C:
		e.reading = reading
		return ErrStuck
	}
}

// readAll reads the iterator to the end of the table, or until the program
// writes a byte, which says that it has seen all that is wanted: that fills
// the buffer and thereby ends the read.
func readAll(it io.Reader) error {
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
