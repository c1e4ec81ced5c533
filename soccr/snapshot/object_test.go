package snapshot

import (
	"encoding/binary"
	"testing"
)

// The committed object and the Go code agree on what lies in the maps.
func TestObjectMatchesCode(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	slots, arena := spec.Maps[bpfMapSlots], spec.Maps[bpfMapArenas].InnerMap
	for _, c := range []struct {
		what      string
		got, want int
	}{
		{"slots", int(slots.MaxEntries), maxSlots},
		{"bytes of a slot", int(slots.ValueSize), binary.Size(bpfSlot{})},
		{"bytes of the control", int(spec.Maps[bpfMapControls].ValueSize), binary.Size(bpfControl{})},
		{"bytes of a block", int(arena.ValueSize), blockSize},
		{"wanted cookies", int(spec.Maps[bpfMapWanted].MaxEntries), maxSlots},
	} {
		if c.got != c.want {
			t.Errorf("%s: the object has %d, the code %d", c.what, c.got, c.want)
		}
	}
}
