package msocket

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

const (
	// channelsPerStack bounds how many requests of this process are on
	// their way to one stack; further ones wait.
	channelsPerStack = 4
	// stacksKept bounds the paths of which channels are kept: those used
	// last.
	stacksKept = 64
)

// A stack is what this process knows of the stack at an absolute path.
type stack struct {
	path  string
	turns chan struct{} // one element for each channel in use
	used  uint64        // guarded by stacks.mu: stacks.uses at the last use

	mu      sync.Mutex // guards the fields below; not held over calls
	idle    []*channel // open ones, the one used last at the end
	seen    bool       // there has been a stack at path
	checked bool       // its ABI version is ours
	self    uapi.Info  // if NetnsCookie is not 0: as our own namespace
}

func newStack(path string) *stack {
	return &stack{path: path, turns: make(chan struct{}, channelsPerStack)}
}

// stacks are those of which channels are kept.
var stacks struct {
	mu   sync.Mutex // guards the fields below; taken before stack.mu
	of   map[string]*stack
	uses uint64
}

// findStack returns the entry for path. A relative path is made absolute:
// it means something else after a chdir.
func findStack(path string) (*stack, error) {
	if path == "" {
		return nil, unix.ENOENT
	}
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		path = dir + "/" + path
	}
	stacks.mu.Lock()
	defer stacks.mu.Unlock()
	if s := stacks.of[path]; s != nil {
		stacks.uses++
		s.used = stacks.uses
		return s, nil
	}
	return newStack(path), nil
}

// keep makes findStack find s, in place of the entry that was not used for
// longest if there are too many. Of two entries for one path the first
// stays.
func (s *stack) keep() {
	stacks.mu.Lock()
	defer stacks.mu.Unlock()
	if stacks.of[s.path] != nil {
		return
	}
	if stacks.of == nil {
		stacks.of = map[string]*stack{}
	}
	if len(stacks.of) >= stacksKept {
		oldest := s
		for _, other := range stacks.of {
			if oldest == s || other.used < oldest.used {
				oldest = other
			}
		}
		delete(stacks.of, oldest.path)
		oldest.closeIdle()
	}
	stacks.uses++
	s.used = stacks.uses
	stacks.of[s.path] = s
}

// kept tells whether channels of s can be used again.
func (s *stack) kept() bool {
	stacks.mu.Lock()
	defer stacks.mu.Unlock()
	return stacks.of[s.path] == s
}

// take returns an open channel, or a place for one. It waits while too many
// are in use; give it back with put.
func (s *stack) take() *channel {
	s.turns <- struct{}{}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	if n == 0 {
		return &channel{}
	}
	c := s.idle[n-1]
	s.idle = s.idle[:n-1]
	return c
}

func (s *stack) put(c *channel) {
	defer func() { <-s.turns }()
	if c.conn == nil {
		return
	}
	s.mu.Lock()
	s.idle = append(s.idle, c)
	s.mu.Unlock()
	if !s.kept() {
		s.closeIdle()
	}
}

// CloseIdle closes the channels of all stacks that are kept for further
// sockets and not in use.
func CloseIdle() {
	stacks.mu.Lock()
	all := slices.Collect(maps.Values(stacks.of))
	stacks.mu.Unlock()
	for _, s := range all {
		s.closeIdle()
	}
}

func (s *stack) closeIdle() {
	s.mu.Lock()
	idle := s.idle
	s.idle = nil
	s.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// learned notes that the stack answered.
func (s *stack) learned() {
	s.keep()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.checked = true, true
}

// expect notes that there is a stack: an error then says that it is gone.
func (s *stack) expect() {
	s.keep()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = true
}

// lost turns an error of the node into what it means for a stack that was
// there before.
func (s *stack) lost(err error) error {
	if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked = false
	if s.seen {
		return errGone
	}
	return err
}
