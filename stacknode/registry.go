package stacknode

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
)

// A Registry holds the stacks of one mount by name.
type Registry struct {
	// Open makes the backend of a spec.
	open func(Spec) (Backend, error)

	mu     sync.Mutex // guards the fields below; taken before Stack.mu
	stacks map[string]*Stack
	adding map[string]bool
	lastID uint64
	gone   func(name string)
}

// NewRegistry returns an empty registry whose backends are made by open.
func NewRegistry(open func(Spec) (Backend, error)) *Registry {
	return &Registry{open: open, stacks: map[string]*Stack{}, adding: map[string]bool{}}
}

// OnRemove sets the function that is told the name of every stack that
// goes, after it is gone and with no lock held.
func (r *Registry) OnRemove(f func(name string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = f
}

// CheckName returns an error if name cannot be that of a stack.
func CheckName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return fmt.Errorf("%q is no name for a stack", name)
	case name[0] == '-':
		return fmt.Errorf("the name %q begins with '-', as flags do", name)
	case len(name) > 63:
		return fmt.Errorf("the name %q is longer than 63 bytes", name)
	case name == NameCtl || name == NameTun:
		return fmt.Errorf("the name %q has a meaning of its own", name)
	case strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c == '/' || c == 0x7f }):
		return fmt.Errorf("the name %q has a slash, a space or a control character", name)
	}
	return nil
}

// Add makes a stack from spec. Returns ErrExists if the name is taken.
func (r *Registry) Add(spec Spec, origin Origin) (*Stack, error) {
	if err := CheckName(spec.Name); err != nil {
		return nil, err
	}
	r.mu.Lock()
	if r.stacks[spec.Name] != nil || r.adding[spec.Name] {
		r.mu.Unlock()
		return nil, fmt.Errorf("stack %s: %w", spec.Name, ErrExists)
	}
	r.adding[spec.Name] = true
	r.mu.Unlock()

	b, err := r.open(spec)

	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.adding, spec.Name)
	if err != nil {
		return nil, fmt.Errorf("stack %s: %w", spec.Name, err)
	}
	r.lastID++
	s := newStack(r.lastID, spec, origin, b)
	r.stacks[spec.Name] = s
	return s, nil
}

// Get returns the stack of that name. Returns ErrNotFound if there is none.
func (r *Registry) Get(name string) (*Stack, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.stacks[name]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
}

// List returns the stacks, sorted by name.
func (r *Registry) List() []*Stack {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*Stack, 0, len(r.stacks))
	for _, s := range r.stacks {
		list = append(list, s)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name() < list[j].Name() })
	return list
}

// Remove ends a stack and destroys what was made for it. While something
// uses it the error is a *BusyError, unless force: then sockets that are
// open go on and nothing new is made.
func (r *Registry) Remove(name string, force bool) error {
	s, err := r.Get(name)
	if err != nil {
		return err
	}
	if s.origin == OriginBuiltin {
		return fmt.Errorf("stack %s: %w", name, ErrPermanent)
	}
	if err := s.drain(force); err != nil {
		return err
	}
	return r.finish(s, true)
}

// Drop lets go of a stack whose namespace somebody else has deleted, or
// (keep) one that is to be adopted by the next daemon. Nothing is
// destroyed.
func (r *Registry) Drop(name string) error {
	s, err := r.Get(name)
	if err != nil {
		return err
	}
	s.setState(Draining)
	return r.finish(s, false)
}

func (r *Registry) finish(s *Stack, destroy bool) error {
	err := s.backend.Close()
	s.setState(Closed)
	if d, ok := s.backend.(Destroyer); ok && destroy {
		err = errors.Join(err, d.Destroy())
	}
	r.mu.Lock()
	if r.stacks[s.Name()] == s {
		delete(r.stacks, s.Name())
	}
	gone := r.gone
	r.mu.Unlock()
	if gone != nil {
		gone(s.Name())
	}
	return err
}

// Close ends every stack. With keep everything that was made stays for the
// next daemon to adopt; without, and unless force, so do the stacks that are
// in use, whose names are returned.
func (r *Registry) Close(keep, force bool) (busy []string, err error) {
	for _, s := range r.List() {
		destroy := !keep
		if destroy && !force && s.busy() != nil {
			busy = append(busy, s.Name())
			destroy = false
		}
		s.setState(Draining)
		err = errors.Join(err, r.finish(s, destroy))
	}
	return busy, err
}

// Busy returns an error that names every stack in use that a close without
// keep would destroy, or nil.
func (r *Registry) Busy() error {
	var errs []error
	for _, s := range r.List() {
		if _, ok := s.backend.(Destroyer); !ok {
			continue
		}
		if err := s.busy(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
