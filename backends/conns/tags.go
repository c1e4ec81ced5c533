package conns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Tags tell apart the sockets of stacks that share a namespace: a mark in the
// kernel's storage of a socket, which those that a listener accepts inherit
// (BPF_MAP_TYPE_SK_STORAGE with BPF_F_CLONE, since 5.4). They go with the last
// of the daemon and of the listeners that Keep was called for.
type Tags struct {
	name string // of the map

	mu    sync.Mutex // guards the fields below
	m     *ebpf.Map
	err   error
	tried bool

	inUse atomic.Bool // something has been tagged; m is there and stays
}

// NewTags returns the tags of the daemon that serves dir. Nothing is made yet.
func NewTags(dir string) *Tags {
	h := fnv.New32a()
	io.WriteString(h, dir)
	return &Tags{name: fmt.Sprintf("stackfs_%07x", h.Sum32()>>4)} // at most 15 bytes
}

// Tagged says which sockets of the namespace are a stack's.
type Tagged int

const (
	TaggedOrNot  Tagged = iota // all
	OnlyTagged                 // those with a tag
	OnlyUntagged               // those without
)

// Of <linux/inet_diag.h> and <linux/sock_diag.h>.
const (
	reqStorages   = 2 // INET_DIAG_REQ_SK_BPF_STORAGES
	reqStorageMap = 1 // SK_DIAG_BPF_STORAGE_REQ_MAP_FD
	diagStorages  = 20
)

const tagFlags = unix.BPF_F_NO_PREALLOC | unix.BPF_F_CLONE

// Adopt takes over the tags that an earlier daemon for the same directory has
// left, if there are any.
func (t *Tags) Adopt() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tried {
		return nil
	}
	m, err := findTags(t.name)
	if err != nil {
		return fmt.Errorf("tags of the earlier daemon: %w", err)
	}
	if m != nil {
		t.m, t.tried = m, true
		t.inUse.Store(true)
	}
	return nil
}

// findTags looks for a map of tags among all maps there are; nil: there is
// none. Needs CAP_SYS_ADMIN.
func findTags(name string) (*ebpf.Map, error) {
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		id = next
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue // it is gone
		}
		info, err := m.Info()
		if err == nil && info.Name == name && m.Type() == ebpf.SkStorage && m.KeySize() == 4 && m.ValueSize() == 4 && m.Flags() == tagFlags {
			return m, nil
		}
		m.Close()
	}
}

func (t *Tags) load() (*ebpf.Map, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.tried {
		t.tried = true
		integer := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
		t.m, t.err = ebpf.NewMap(&ebpf.MapSpec{
			Name: t.name, Type: ebpf.SkStorage, KeySize: 4, ValueSize: 4, Flags: tagFlags, Key: integer, Value: integer,
		})
	}
	return t.m, t.err
}

// Put tags a socket.
func (t *Tags) Put(fd int) error {
	m, err := t.load()
	if err == nil {
		err = m.Put(int32(fd), int32(1))
	}
	if err != nil {
		return fmt.Errorf("tag a socket: %w", err)
	}
	t.inUse.Store(true)
	return nil
}

// Keep makes the tags stay as long as p does, so that the next daemon finds
// them. Since 5.10.
func (t *Tags) Keep(p *ebpf.Program) error {
	m, err := t.load()
	if err == nil {
		err = p.BindMap(m)
	}
	if err != nil {
		return fmt.Errorf("keep the tags: %w", err)
	}
	return nil
}

// Check returns why sockets cannot be tagged.
func (t *Tags) Check() error {
	_, err := t.load()
	return err
}

// request adds to a dump that it tells of the tags, if there are any.
func (t *Tags) request() []byte {
	if t == nil || !t.inUse.Load() {
		return nil
	}
	ne := binary.NativeEndian
	b := ne.AppendUint16(nil, 12) // two attributes, one within the other
	b = ne.AppendUint16(b, reqStorages|unix.NLA_F_NESTED)
	b = ne.AppendUint16(b, 8)
	b = ne.AppendUint16(b, reqStorageMap)
	return ne.AppendUint32(b, uint32(t.m.FD()))
}

// hasTag tells whether the attributes of a socket have a tag.
func hasTag(attrs []byte) bool {
	ne := binary.NativeEndian
	for len(attrs) >= unix.SizeofRtAttr {
		size, typ := int(ne.Uint16(attrs)), ne.Uint16(attrs[2:])
		if size < unix.SizeofRtAttr || size > len(attrs) {
			return false
		}
		if typ&^(unix.NLA_F_NESTED) == diagStorages {
			return size > unix.SizeofRtAttr
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return false
}

// belongs tells whether an entry is one of a stack's.
func (want Tagged) belongs(e *entry) bool {
	return want == TaggedOrNot || e.tagged == (want == OnlyTagged)
}
