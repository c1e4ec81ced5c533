package snapshot

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Of bpf/snapshot.h.
const (
	blockSize   = 1 << 20 // BLOCK_SIZE
	blockHeader = 64      // offset of block.data
	copyMax     = 32 << 10

	// blockHolds is how much fits into a block for certain: it is left
	// when less than copyMax bytes are free.
	blockHolds = blockSize - blockHeader - copyMax + 1
)

// arenaBlocks are the sizes that an arena can have. The first is what is
// kept while nobody asks for more. The last is more than the queues of one
// connection can hold, but for both of them close to the 1 GiB of TCP's
// largest window.
var arenaBlocks = [...]int{1, 4, 16, 64, 256, 1024}

// largestQueues is how many bytes the queues of a connection may have.
const largestQueues = 1024 * blockHolds

// An arena holds the bytes of a pass: a number of blocks, each of which
// begins with how much of it is used.
type arena struct {
	m   *ebpf.Map
	mem []byte
}

// newArena makes an arena like the map that the program was compiled with,
// but for its size. The caller closes it.
func newArena(like *ebpf.MapSpec, blocks int) (*arena, error) {
	spec := like.Copy()
	spec.Name = "arena"
	spec.MaxEntries = uint32(blocks)
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make an arena of %d MiB: %w", blocks, err)
	}
	mem, err := mapMemory(m)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("map an arena of %d MiB: %w", blocks, err)
	}
	return &arena{m: m, mem: mem}, nil
}

func (a *arena) Close() error {
	err := unix.Munmap(a.mem)
	if cerr := a.m.Close(); err == nil {
		err = cerr
	}
	return err
}

func (a *arena) blocks() int { return len(a.mem) / blockSize }

// holds tells how many bytes fit for certain.
func (a *arena) holds() int64 { return int64(a.blocks()) * blockHolds }

// reset empties the first block, at which a pass begins. The program empties
// the others as it comes to them.
func (a *arena) reset() { binary.NativeEndian.PutUint32(a.mem, 0) }

// gather copies n bytes that begin in a block at an offset, and returns
// where the next ones begin.
func (a *arena) gather(block, offset, n uint32) (b []byte, nextBlock, nextOffset uint32, err error) {
	if int64(n) > a.holds()+copyMax {
		return nil, 0, 0, fmt.Errorf("%d bytes in an arena of %d: %w", n, len(a.mem), ErrQueue)
	}
	b = make([]byte, 0, n)
	for left := n; left > 0; {
		used, data := a.block(block)
		if offset > used || int64(used) > int64(len(data)) || data == nil {
			return nil, 0, 0, fmt.Errorf("offset %d of the %d bytes in block %d: %w", offset, used, block, ErrQueue)
		}
		part := min(left, used-offset)
		b = append(b, data[offset:offset+part]...)
		offset += part
		if left -= part; left > 0 {
			block, offset = block+1, 0
		}
	}
	return b, block, offset, nil
}

// block returns how much of a block is used, and all of it, nil if there is
// no such block.
func (a *arena) block(i uint32) (used uint32, data []byte) {
	at := int64(i) * blockSize
	if at+blockSize > int64(len(a.mem)) {
		return 0, nil
	}
	b := a.mem[at : at+blockSize]
	return binary.NativeEndian.Uint32(b), b[blockHeader:]
}
