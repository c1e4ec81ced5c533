package main

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/stackfs/stackfs/backends/netns"
	"github.com/stackfs/stackfs/stacknode"
)

// populate makes the stacks of the configuration and adopts those that an
// earlier daemon left.
func (s *server) populate(_ *undoList, cfg *config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = cfg
	for _, spec := range cfg.Builtin {
		if _, err := s.add(spec, stacknode.OriginBuiltin); err != nil {
			return err
		}
	}
	for _, spec := range cfg.Stacks {
		if _, err := s.add(spec, stacknode.OriginConfig); err != nil {
			return cfg.locate(spec, err)
		}
	}
	s.adoptStacks()
	return nil
}

// adoptStacks makes the stacks again that mkdir and ctl made under an
// earlier daemon. One that fails is left out: the others are in use.
func (s *server) adoptStacks() {
	pinned, err := netns.Pinned(s.runDir)
	if err != nil {
		s.log.Error("namespaces of the earlier daemon", "err", err)
	}
	for _, name := range pinned {
		if _, known := s.state.Runtime[name]; !known {
			if _, err := s.reg.Get(name); err != nil {
				s.state.Runtime[name] = ""
			}
		}
	}
	for name, options := range s.state.Runtime {
		if err := s.addRuntime(name, options); err != nil {
			s.log.Error("adopt", "stack", name, "err", err)
		}
	}
	// What an earlier daemon changed for stacks that are no longer wanted.
	err = netns.Sweep(s.netnsEnv(), func(stack string) bool {
		_, err := s.reg.Get(stack)
		return err == nil
	})
	if err != nil {
		s.log.Error("take back what an earlier daemon made", "err", err)
	}
}

// add makes a stack. It is called with s.mu held.
func (s *server) add(spec stacknode.Spec, origin stacknode.Origin) (*stacknode.Stack, error) {
	st, err := s.reg.Add(spec, origin)
	if err != nil {
		return nil, err
	}
	s.restoreAccess(st)
	s.log.Info("stack up", "stack", spec.Name, "kind", spec.Kind, "origin", origin)
	return st, nil
}

// addRuntime makes a stack from inline TOML. It is called with s.mu held.
func (s *server) addRuntime(name, options string) error {
	if err := stacknode.CheckName(name); err != nil {
		return fmt.Errorf("%w: %w", err, errInvalid)
	}
	spec, err := parseStackTOML(name, options, s.users)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errInvalid)
	}
	_, err = s.add(spec, stacknode.OriginRuntime)
	return err
}

// remove ends a stack and forgets what was saved of it. It is called with
// s.mu held.
func (s *server) remove(name string, force bool) error {
	if err := s.reg.Remove(name, force); err != nil {
		return err
	}
	delete(s.state.Runtime, name)
	delete(s.state.Access, name)
	s.saveState()
	s.log.Info("stack removed", "stack", name, "force", force)
	return nil
}

// startDiscovery makes stacks come and go with the namespaces that have a
// name.
func (s *server) startDiscovery() (err error) {
	s.discover, err = netns.Discover(netns.Discovery{
		Registry: s.reg, Wanted: s.wanted, Changed: s.discovered, Log: s.log,
	})
	return err
}

// wanted returns the stacks that live in the namespace of that name.
func (s *server) wanted(namespace string) []netns.Wanted {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []netns.Wanted
	for _, spec := range s.config.Stacks {
		if spec.Netns.Name == namespace {
			list = append(list, netns.Wanted{Spec: spec, Origin: stacknode.OriginConfig})
		}
	}
	if s.config.Discover && len(list) == 0 {
		as := s.config.DiscoverAs
		list = append(list, netns.Wanted{Origin: stacknode.OriginDiscover, Spec: stacknode.Spec{
			Name: namespace, Kind: stacknode.KindNetns, Mode: as.Mode, UID: as.UID, GID: as.GID,
			Netns: stacknode.NetnsSpec{Name: namespace},
		}})
	}
	return list
}

// discovered is told that a stack appeared with its namespace.
func (s *server) discovered(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, err := s.reg.Get(name); err == nil {
		s.restoreAccess(st)
		s.log.Info("stack up", "stack", name, "kind", st.Kind(), "origin", st.Origin())
	}
}

// namespaceGone is told that the process whose namespace a stack is ended.
func (s *server) namespaceGone(stack string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, err := s.reg.Get(stack); err == nil {
		s.drop(st)
	}
}

func (s *server) drop(st *stacknode.Stack) {
	if err := s.reg.Drop(st.Name()); err != nil {
		s.log.Warn("drop", "stack", st.Name(), "err", err)
	}
	s.log.Info("stack gone with its namespace", "stack", st.Name())
}

// adoptRuns goes on with the programs that an earlier daemon served.
func (s *server) adoptRuns() {
	heirs, taken, err := s.keeper.Inherit()
	if err != nil {
		s.log.Error("programs of an earlier daemon are lost", "err", err)
	}
	for _, h := range heirs {
		if err := s.runs.Adopt(h); err != nil {
			s.log.Error("adopt a program", "err", err)
		}
	}
	taken()
	if len(heirs) > 0 {
		s.log.Info("programs adopted", "count", len(heirs))
	}
}

// reload makes the stacks what the configuration now says. A configuration
// that is broken changes nothing; a stack that is in use and would have to
// be made anew stays, and the error names it.
func (s *server) reload() (string, error) {
	cfg, err := s.loadConfig()
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, errInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := specsByName(s.config.Stacks, s.config.Builtin)
	now := specsByName(cfg.Stacks, cfg.Builtin)
	if cfg.Checkpoint != s.config.Checkpoint || cfg.StateDir != s.config.StateDir {
		s.log.Warn("checkpoint and state_dir are what they were until the next mount")
	}
	s.config = cfg
	var errs []error
	for name, was := range old {
		if _, still := now[name]; still {
			continue
		}
		if err := s.remove(name, false); err != nil && !errors.Is(err, stacknode.ErrNotFound) {
			errs = append(errs, err)
			s.config.Stacks = append(s.config.Stacks, was) // to be tried again
		}
	}
	for name, spec := range now {
		was, had := old[name]
		if err := s.reloadOne(spec, was, had); err != nil {
			errs = append(errs, err)
			if had {
				s.config.put(was)
			} else {
				s.config.drop(name)
			}
		}
	}
	s.saveState()
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	s.log.Info("configuration reloaded", "file", s.opts.Config)
	return "ok\n", nil
}

// reloadOne makes one stack what spec says; was is what the configuration
// said before, if it had it. It is called with s.mu held.
func (s *server) reloadOne(spec, was stacknode.Spec, had bool) error {
	st, err := s.reg.Get(spec.Name)
	switch {
	case err == nil && st.Origin() == stacknode.OriginDiscover && !had:
		if err := s.reg.Drop(spec.Name); err != nil {
			return err
		}
		fallthrough
	case err != nil:
		_, err := s.add(spec, stacknode.OriginConfig)
		return s.config.locate(spec, err)
	case !had:
		return fmt.Errorf("stack %s: %w", spec.Name, stacknode.ErrExists)
	case !sameButAccess(was, spec):
		return s.replace(st, spec)
	case was.Mode != spec.Mode || was.UID != spec.UID || was.GID != spec.GID:
		st.SetAccess(&spec.Mode, &spec.UID, &spec.GID)
		delete(s.state.Access, spec.Name)
		s.tree.Refresh(spec.Name)
	}
	return nil
}

// replace makes a stack anew whose options changed.
func (s *server) replace(st *stacknode.Stack, spec stacknode.Spec) error {
	origin := st.Origin()
	if origin == stacknode.OriginBuiltin {
		if err := s.reg.Drop(spec.Name); err != nil {
			return err
		}
	} else if err := s.remove(spec.Name, false); err != nil {
		return err
	}
	_, err := s.add(spec, origin)
	return err
}

func specsByName(lists ...[]stacknode.Spec) map[string]stacknode.Spec {
	m := map[string]stacknode.Spec{}
	for _, list := range lists {
		for _, spec := range list {
			m[spec.Name] = spec
		}
	}
	return m
}

func sameButAccess(a, b stacknode.Spec) bool {
	a.Mode, a.UID, a.GID = b.Mode, b.UID, b.GID
	return reflect.DeepEqual(a, b)
}
