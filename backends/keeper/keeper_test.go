package keeper

import (
	"testing"

	"github.com/stackfs/stackfs/backends/worker"
)

func TestParseMount(t *testing.T) {
	m, err := parseMount(`62 28 0:51 / /tmp/a\040b\134c rw,nosuid shared:1 master:2 - fuse.stackfs /etc/x\040y.toml rw,user_id=0`)
	if err != nil {
		t.Fatal(err)
	}
	want := Mount{ID: 62, Root: "/", Dir: `/tmp/a b\c`, Type: FSType, Source: "/etc/x y.toml"}
	if m != want {
		t.Errorf("got %+v, want %+v", m, want)
	}
	for _, line := range []string{"", "62 28 0:51 / /tmp rw", "x 28 0:51 / /tmp rw - tmpfs tmpfs rw"} {
		if m, err := parseMount(line); err == nil {
			t.Errorf("parseMount(%q): got %+v, want an error", line, m)
		}
	}
}

func TestSlots(t *testing.T) {
	s, err := NewSlots()
	if err != nil {
		t.Fatal(err)
	}
	taken := map[*worker.Slot]bool{}
	for slot := s.Take(); slot != nil; slot = s.Take() {
		if taken[slot] {
			t.Fatal("a slot was given twice")
		}
		taken[slot] = true
	}
	if len(taken) != slotCount {
		t.Fatalf("%d slots, want %d", len(taken), slotCount)
	}
	for slot := range taken {
		slot.Run.Store(5)
		slot.Notif.ID = 7
		var flight int
		s.inFlight(func(run, id uint64) {
			if run != 5 || id != 7 {
				t.Errorf("in flight: %d, %d", run, id)
			}
			flight++
		})
		if flight != 1 {
			t.Fatalf("%d in flight, want 1", flight)
		}
		s.Put(slot)
		s.inFlight(func(uint64, uint64) { t.Fatal("in flight after Put") })
		break
	}
	if s.Take() == nil {
		t.Error("no slot after Put")
	}
}
