package conns

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Tags tell apart the sockets of stacks that share a namespace: a mark in the
// kernel's storage of a socket, which those that a listener accepts inherit
// (BPF_MAP_TYPE_SK_STORAGE with BPF_F_CLONE, since 5.4). The zero Tags is
// ready. A daemon's tags go with it.
type Tags struct {
	once  sync.Once
	m     *ebpf.Map
	err   error
	inUse atomic.Bool // something has been tagged
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

func (t *Tags) load() error {
	t.once.Do(func() {
		integer := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
		t.m, t.err = ebpf.NewMap(&ebpf.MapSpec{
			Name: "stackfs_tags", Type: ebpf.SkStorage, KeySize: 4, ValueSize: 4,
			Flags: unix.BPF_F_NO_PREALLOC | unix.BPF_F_CLONE, Key: integer, Value: integer,
		})
	})
	return t.err
}

// Put tags a socket.
func (t *Tags) Put(fd int) error {
	if err := t.load(); err != nil {
		return fmt.Errorf("tag a socket: %w", err)
	}
	if err := t.m.Put(int32(fd), int32(1)); err != nil {
		return fmt.Errorf("tag a socket: %w", err)
	}
	t.inUse.Store(true)
	return nil
}

// Check returns why sockets cannot be tagged.
func (t *Tags) Check() error { return t.load() }

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
