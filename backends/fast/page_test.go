package fast

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// Nobody can make the page smaller, and what is written to it does no harm.
func TestPageIsNotBelieved(t *testing.T) {
	f := newFast(t)
	s := mustSpawn(t, f, listener(t))
	fd := int(s.Page.Fd())
	if err := unix.Ftruncate(fd, 0); err != unix.EPERM {
		t.Errorf("truncate: got %v, want EPERM", err)
	}
	if err := unix.Ftruncate(fd, 1<<20); err != unix.EPERM {
		t.Errorf("make it larger: got %v, want EPERM", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != unix.EPERM {
		t.Errorf("seal it: got %v, want EPERM", err)
	}
	slots, err := possibleCPUs()
	if err != nil {
		t.Fatal(err)
	}
	junk := make([]byte, uapi.SizePage+slots*uapi.SizeSlot)
	for i := range junk {
		junk[i] = 0xff
	}
	if _, err := unix.Pwrite(fd, junk, 0); err != nil {
		t.Fatal(err)
	}
	f.look(t.Context())
	lines := f.Describe()
	if len(lines) > 16+slots {
		t.Errorf("%d lines for %d slots", len(lines), slots)
	}
	found := false
	for _, l := range lines {
		if l.Key == "listener" {
			found = true
			if !strings.Contains(l.Value, "steering=unknown") || strings.Contains(l.Value, " for ") || strings.Contains(l.Value, "workers=42949") {
				t.Errorf("line %q", l.Value)
			}
		}
	}
	if !found {
		t.Error("there is no line of the listener")
	}
	for _, c := range []struct {
		local  uint64
		others []uint64
		want   string
	}{{0, nil, "-"}, {1, []uint64{1}, "50.0%"}, {1 << 63, []uint64{1 << 63, 0}, "50.0%"}, {3, []uint64{0, 1}, "75.0%"}} {
		if got := share(c.local, c.others...); got != c.want {
			t.Errorf("share(%d, %v) = %s, want %s", c.local, c.others, got, c.want)
		}
	}
}
