package snapshot

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// idleTime is how long a large arena is kept after its last use.
const idleTime = 30 * time.Second

// A Snapshotter takes snapshots of TCP connections. Its methods can be
// called from several goroutines. While idle it keeps 1.4 MiB of the kernel's
// memory.
type Snapshotter struct {
	log    *slog.Logger
	facts  facts
	passes atomic.Int64
	blocks atomic.Int64 // of the arena, MiB

	// pass is held while the engine is in use. The fields up to mu are
	// guarded by it.
	pass   sync.Mutex
	engine *engine // nil after ErrStuck, and after Close
	used   time.Time
	shrink *time.Timer // nil until the arena grows

	mu      sync.Mutex // guards the fields below; taken after pass
	pending map[any]*batch
	stuck   map[any]bool // namespaces with an abandoned engine
	size    int          // requests in the last batches, by gather
	closed  bool

	running sync.WaitGroup // batches
}

// New loads the program, calibrates it and compares snapshots of connections
// of its own with what it knows about them. That takes about 0.1 s. It needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN: the connections are in a network namespace
// that it makes and leaves behind empty.
//
// Its error says why there can be no live snapshots on this machine.
func New(log *slog.Logger) (*Snapshotter, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("live snapshots on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	began := time.Now()
	s := &Snapshotter{log: log, pending: make(map[any]*batch), stuck: make(map[any]bool)}
	var err error
	if s.engine, err = newEngine(&s.facts, &s.passes); err != nil {
		return nil, err
	}
	s.blocks.Store(int64(arenaBlocks[0]))
	loaded := time.Now()
	if err := selfTest(s.engine); err != nil {
		return nil, errors.Join(fmt.Errorf("self-test: %w", err), s.engine.release())
	}
	log.Debug("live snapshots", "load", loaded.Sub(began), "self-test", time.Since(loaded), "hz", s.facts.hz)
	return s, nil
}

// explain adds to an error of loading what the machine lacks.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN: %w", err)
	case errors.Is(err, unix.EINVAL) && lockdown():
		return fmt.Errorf("the kernel is locked down (confidentiality): its memory must not be read: %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("needs Linux 6.1 with BTF: %w", err)
	}
	return err
}

// Close ends what is under way, then frees everything. Take returns ErrClosed
// from then on. Close again does nothing.
func (s *Snapshotter) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
	s.pass.Lock()
	defer s.pass.Unlock()
	e := s.engine
	if s.engine = nil; e == nil {
		return nil
	}
	return e.release()
}

// Describe returns a line for people. It waits for nothing.
func (s *Snapshotter) Describe() string {
	s.mu.Lock()
	stuck := len(s.stuck)
	s.mu.Unlock()
	line := fmt.Sprintf("bpf: iter/tcp, %d passes, arena %d MiB", s.passes.Load(), s.blocks.Load())
	if stuck > 0 {
		line += fmt.Sprintf(", waiting for a locked socket in %d namespaces", stuck)
	}
	return line
}

// lockdown tells whether the kernel hides its memory from root.
func lockdown() bool {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	return err == nil && strings.Contains(string(b), "[confidentiality]")
}
