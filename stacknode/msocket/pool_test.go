package msocket

import (
	"fmt"
	"os"
	"testing"
)

func TestStacksUsedLastAreKept(t *testing.T) {
	find := func(i int) *stack {
		t.Helper()
		s, err := findStack(fmt.Sprintf("/stack/%d", i))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := find(0)
	first.keep()
	first.put(first.taken(t))
	for i := 1; i < stacksKept; i++ {
		find(i).keep()
	}
	if find(0) != first || len(first.idle) != 1 {
		t.Errorf("the first of %d is not kept", stacksKept)
	}
	find(stacksKept).keep()
	if find(0) != first {
		t.Errorf("one that was just used went")
	}
	if s := find(1); s.kept() {
		t.Errorf("the one used longest ago is kept")
	}
	for i := range stacksKept {
		find(1000 + i).keep()
	}
	if first.kept() || len(first.idle) != 0 {
		t.Errorf("kept %v, with %d channels; want it gone and them closed", first.kept(), len(first.idle))
	}
	first.put(first.taken(t))
	if len(first.idle) != 0 {
		t.Errorf("a channel of a stack that is not kept stays open")
	}
	first.keep()
	if find(0) != first {
		t.Errorf("a stack that is used again is not kept")
	}
}

// taken is a channel in use.
func (s *stack) taken(t *testing.T) *channel {
	c := s.take()
	c.conn = openNull(t)
	return c
}

func openNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestRelativePathIsOfTheDirectoryItWasUsedIn(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if s, err := findStack("lab"); err != nil || s.path != dir+"/lab" {
		t.Errorf("got %q, %v, want %s/lab", s.path, err, dir)
	}
}
