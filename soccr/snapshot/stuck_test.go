package snapshot

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The owner of a socket can hold its lock as long as he likes. That is no
// reason for others to wait.
func TestLockedSocket(t *testing.T) {
	s, here, there := mustNew(t), newSpace(t), newSpace(t)
	locked, beside := here.mustPair(t, unix.AF_INET, v4Loopback), here.mustPair(t, unix.AF_INET, v4Loopback)
	elsewhere := there.mustPair(t, unix.AF_INET, v4Loopback)
	mem, provide, err := missing(4096)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		skip(t, "needs userfaultfd: %v", err)
	}
	must(t, err)
	defer unix.Munmap(mem)
	defer provide()
	s.engine.patience = 300 * time.Millisecond
	sent := make(chan error, 1)
	go func() { // fails in the kernel's copy, under the lock
		_, err := unix.Write(locked.client.fd, mem)
		sent <- err
	}()
	time.Sleep(50 * time.Millisecond)

	take := func(ns *space, e *end) error {
		began := time.Now()
		r, err := s.Take(context.Background(), ns.netns(), []uint64{e.cookie})
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("Take took %v", took)
		}
		if err == nil {
			err = r[0].Err
		}
		return err
	}
	// Its place in the table decides whether the iterator comes to the
	// locked socket before it has what is wanted: ask for what is not there.
	if err := take(here, &end{cookie: 1 << 60}); !errors.Is(err, ErrStuck) {
		t.Fatalf("got %v, want %v", err, ErrStuck)
	}
	if err := take(here, beside.client); !errors.Is(err, ErrStuck) {
		t.Errorf("again: got %v, want %v", err, ErrStuck)
	}
	must(t, take(there, elsewhere.client))

	provide()
	must(t, <-sent)
	must(t, until(func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.stuck) == 0, nil
	}))
	must(t, take(here, locked.client))
	must(t, take(here, beside.client))
}
