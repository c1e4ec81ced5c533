package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stackfs/stackfs/stacknode"
)

// A state is what a daemon that dies leaves to the next one of its mount,
// besides the namespaces that it pinned.
type state struct {
	// Access has the modes and owners that were set by chmod and chown.
	Access map[string]savedAccess `json:",omitempty"`
	// Runtime has the stacks that mkdir and ctl made, with their options
	// as inline TOML.
	Runtime map[string]string `json:",omitempty"`
}

type savedAccess struct {
	Mode     fs.FileMode
	UID, GID uint32
}

const stateName = "state.json"

// loadState reads the state in runDir. Without one it is empty.
func loadState(runDir string) (state, error) {
	st := state{Access: map[string]savedAccess{}, Runtime: map[string]string{}}
	b, err := os.ReadFile(filepath.Join(runDir, stateName))
	if errors.Is(err, os.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	var saved state
	if err := json.Unmarshal(b, &saved); err != nil {
		return st, fmt.Errorf("%s: %w", stateName, err)
	}
	if saved.Access != nil {
		st.Access = saved.Access
	}
	if saved.Runtime != nil {
		st.Runtime = saved.Runtime
	}
	return st, nil
}

// save writes the state so that a crash leaves the old or the new one.
func (st state) save(runDir string) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	path := filepath.Join(runDir, stateName)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// saveState is called with s.mu held.
func (s *server) saveState() {
	if err := s.state.save(s.runDir); err != nil {
		s.log.Error("save state", "err", err)
	}
}

// AccessChanged implements fs.Host.
func (s *server) AccessChanged(st *stacknode.Stack) {
	mode, uid, gid := st.Access()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Access[st.Name()] = savedAccess{mode, uid, gid}
	s.saveState()
}

// restoreAccess gives a stack the mode and owner that chmod and chown gave
// it under an earlier daemon. It is called with s.mu held.
func (s *server) restoreAccess(st *stacknode.Stack) {
	if a, ok := s.state.Access[st.Name()]; ok {
		st.SetAccess(&a.Mode, &a.UID, &a.GID)
	}
}
