package stacknode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// A State is a stage in the life of a Stack.
type State int

const (
	Up       State = iota // serves
	Draining              // being removed: refuses new sockets
	Closed                // gone
)

func (s State) String() string {
	return [...]string{"up", "draining", "closed"}[s]
}

// A Stack is a named Backend with an owner, a mode and a lifecycle.
type Stack struct {
	id      uint64
	spec    Spec
	origin  Origin
	backend Backend
	created time.Time

	mu       sync.Mutex // guards the fields below; taken after Registry.mu
	state    State
	mode     fs.FileMode
	uid, gid uint32
}

func newStack(id uint64, spec Spec, origin Origin, b Backend) *Stack {
	return &Stack{
		id: id, spec: spec, origin: origin, backend: b, created: time.Now(),
		mode: spec.Mode.Perm(), uid: spec.UID, gid: spec.GID,
	}
}

// ID returns a number that no other stack of the registry has or had.
func (s *Stack) ID() uint64 { return s.id }

// Name returns the name of the stack in its mount.
func (s *Stack) Name() string { return s.spec.Name }

// Kind returns the kind of the stack.
func (s *Stack) Kind() Kind { return s.spec.Kind }

// Origin returns where the stack came from.
func (s *Stack) Origin() Origin { return s.origin }

// Spec returns what the stack was made from.
func (s *Stack) Spec() Spec { return s.spec }

// Backend returns the stack's backend, to ask it for optional powers.
func (s *Stack) Backend() Backend { return s.backend }

// Created returns when the stack was added to the registry.
func (s *Stack) Created() time.Time { return s.created }

// State returns the stage the stack is in.
func (s *Stack) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Access returns the permission bits and the owner of the node.
func (s *Stack) Access() (mode fs.FileMode, uid, gid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mode, s.uid, s.gid
}

// SetAccess changes the fields that are not nil.
func (s *Stack) SetAccess(mode *fs.FileMode, uid, gid *uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mode != nil {
		s.mode = mode.Perm()
	}
	if uid != nil {
		s.uid = *uid
	}
	if gid != nil {
		s.gid = *gid
	}
}

// Families returns the address families of the stack.
func (s *Stack) Families() FamilySet { return s.backend.Families() }

// NetNS returns the network namespace of the stack's sockets; ok is false
// for a stack that has none.
func (s *Stack) NetNS() (id NSID, cookie uint64, ok bool) {
	n, ok := s.backend.(NetNamespace)
	if !ok {
		return NSID{}, 0, false
	}
	id, cookie = n.NetNS()
	return id, cookie, true
}

// Self tells whether caller is in the network namespace of a stack that it
// needs no help for, so that socket(2) gives it the stack's sockets.
func (s *Stack) Self(caller *Caller) bool {
	own, ok := s.backend.(OwnNamespace)
	if !ok {
		return false
	}
	id, _ := own.NetNS()
	return id == caller.NetNS()
}

// Lets tells whether caller, who has passed Admit, is to make a socket of the
// stack itself.
func (s *Stack) Lets(caller *Caller, domain, typ, proto int) bool {
	if !s.Self(caller) {
		return false
	}
	m, ok := s.backend.(Maker)
	return !ok || !m.Makes(caller.TID, domain, typ, proto)
}

// Refuses returns the errno that a socket of the stack is refused with, or
// nil.
func (s *Stack) Refuses(domain, typ, proto int) error {
	if r, ok := s.backend.(Refuser); ok {
		return r.Refuses(domain, typ, proto)
	}
	return nil
}

// Admit checks that the stack is up and serves caller at all. Returns
// ErrClosed or ErrForeign. The mode of the node is not looked at: the
// kernel did, when the caller opened it.
func (s *Stack) Admit(caller *Caller) error {
	if s.State() != Up {
		return ErrClosed
	}
	if own, ok := s.backend.(OwnNamespace); ok && !own.Foreign() && !s.Self(caller) {
		return ErrForeign
	}
	return nil
}

// Socket opens a socket of the stack for caller, who has passed Admit.
func (s *Stack) Socket(ctx context.Context, caller *Caller, domain, typ, proto int) (*os.File, error) {
	if err := s.Admit(caller); err != nil {
		return nil, err
	}
	if !s.Families().Has(domain) {
		return nil, ErrNotSupported
	}
	if typ == -1 {
		return nil, ErrProbe
	}
	return s.backend.Socket(ctx, caller, domain, typ, proto)
}

// KeepsChannels tells whether an open channel may go on asking: the right
// to use a stack that serves its own namespace only is looked at anew for
// each socket.
func (s *Stack) KeepsChannels() bool {
	if own, ok := s.backend.(OwnNamespace); ok && !own.Foreign() {
		return false
	}
	_, ok := s.backend.(ChannelServer)
	return ok
}

// drain refuses new sockets and asks what is still open. Without force a
// busy stack goes back up and the error is a *BusyError.
func (s *Stack) drain(force bool) error {
	s.mu.Lock()
	if s.state != Up {
		s.mu.Unlock()
		return ErrClosed
	}
	s.state = Draining
	s.mu.Unlock()

	d, ok := s.backend.(Drainer)
	if ok {
		d.Drain(true)
	}
	err := s.busy()
	if err != nil && (!force || !errors.Is(err, ErrBusy)) {
		if ok {
			d.Drain(false)
		}
		s.setState(Up)
		return err
	}
	return nil
}

func (s *Stack) busy() error {
	b, ok := s.backend.(Busier)
	if !ok {
		return nil
	}
	reasons, err := b.Busy()
	if err != nil {
		return fmt.Errorf("stack %s: %w", s.Name(), err)
	}
	if len(reasons) > 0 {
		return &BusyError{Stack: s.Name(), Reasons: reasons}
	}
	return nil
}

func (s *Stack) setState(st State) {
	s.mu.Lock()
	s.state = st
	s.mu.Unlock()
}
