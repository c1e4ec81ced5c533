package nic

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// StateDir has what interfaces were like before, below Root.
const StateDir = "/run/stackfs/nic"

// A Result is what Setup or Undo did, or would do.
type Result struct {
	Changes []Change
	Notes   []string
}

// Setup sets the interface up, unless dryRun, and remembers what was there
// before: of several runs what was there before the first. A setting that the
// driver or the kernel cannot make is in the result with the reason; any other
// failure takes back what was changed.
func (s System) Setup(iface string, opts Options, dryRun bool) (*Result, error) {
	m, err := s.look(iface, opts)
	if err != nil {
		return nil, err
	}
	r := &Result{}
	if s.running("irqbalance") {
		r.Notes = append(r.Notes, "irqbalance is running and will move the interrupts again (stop it, or tell it --banirq)")
	}
	r.Changes = m.channels()
	if !dryRun {
		if err := s.apply(iface, r.Changes); err != nil {
			return nil, err
		}
		// Other queues, other interrupts.
		if m, err = s.look(iface, opts); err != nil {
			return nil, err
		}
	} else if len(r.Changes) > 0 && r.Changes[0].Failed == "" {
		r.Notes = append(r.Notes, "with another number of queues there will be others to set than these")
	}
	steering, notes := m.steering()
	r.Notes = append(r.Notes, notes...)
	if !dryRun {
		err = s.apply(iface, steering)
	}
	r.Changes = append(r.Changes, steering...)
	if err != nil {
		undo, uerr := s.Undo(iface, false)
		if uerr == nil {
			return nil, fmt.Errorf("%w (%d settings were taken back)", err, len(undo.Changes))
		}
		return nil, errors.Join(err, uerr)
	}
	return r, nil
}

// apply makes the changes, having remembered what was before.
func (s System) apply(iface string, list []Change) error {
	if !slices.ContainsFunc(list, func(c Change) bool { return c.Failed == "" }) {
		return nil
	}
	if err := s.remember(iface, list); err != nil {
		return err
	}
	for i := range list {
		c := &list[i]
		if c.Failed != "" {
			continue
		}
		err := s.set(iface, c.What, c.After)
		switch {
		case err == nil:
		case cannot(err):
			c.Failed = err.Error()
		default:
			return fmt.Errorf("%s = %s: %w", c.What, c.After, err)
		}
	}
	return nil
}

// cannot tells whether err says that there is no such setting here.
func cannot(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL, unix.EIO, unix.ENOTTY, errors.ErrUnsupported} {
		if errors.Is(err, e) {
			return true // EIO: an interrupt that the kernel has bound itself
		}
	}
	return false
}

func (s System) set(iface, what, value string) error {
	n, err := strconv.Atoi(value)
	switch {
	case what == whatChannels && err == nil:
		return s.Ethtool.SetChannels(iface, n)
	case what == whatRxUsecs && err == nil:
		return s.Ethtool.SetRxUsecs(iface, n)
	}
	f, err := os.OpenFile(s.path(what), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	return errors.Join(err, f.Close())
}

func (s System) stateFile(iface string) string {
	return s.path(filepath.Join(StateDir, iface+".json"))
}

// saved is what is remembered of an interface, oldest first.
func (s System) saved(iface string) ([]Change, error) {
	b, err := os.ReadFile(s.stateFile(iface))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Change
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("%s (remove it if the interface is as it should be): %w", s.stateFile(iface), err)
	}
	return list, nil
}

func (s System) remember(iface string, list []Change) error {
	saved, err := s.saved(iface)
	if err != nil {
		return err
	}
	for _, c := range list {
		known := slices.ContainsFunc(saved, func(o Change) bool { return o.What == c.What })
		if !known && c.Failed == "" {
			saved = append(saved, Change{What: c.What, Before: c.Before})
		}
	}
	b, err := json.MarshalIndent(saved, "", "\t")
	if err != nil {
		return err
	}
	file := s.stateFile(iface)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Undo puts back what was there before Setup, the last setting first. What
// is gone meanwhile, as queues are, is in the result with the reason.
func (s System) Undo(iface string, dryRun bool) (*Result, error) {
	saved, err := s.saved(iface)
	if err != nil {
		return nil, err
	}
	if saved == nil {
		return nil, fmt.Errorf("%s: nothing was set up here (%s has what was): %w", iface, s.path(StateDir), fs.ErrNotExist)
	}
	r := &Result{}
	for _, c := range slices.Backward(saved) {
		back := Change{What: c.What, After: c.Before}
		back.Before, _ = s.current(iface, c.What)
		if !dryRun {
			if err := s.set(iface, c.What, c.Before); err != nil && !cannot(err) {
				return nil, fmt.Errorf("%s = %s: %w", c.What, c.Before, err)
			} else if err != nil {
				back.Failed = err.Error()
			}
		}
		r.Changes = append(r.Changes, back)
	}
	if dryRun {
		return r, nil
	}
	return r, os.Remove(s.stateFile(iface))
}

// current returns a setting as it is.
func (s System) current(iface, what string) (string, error) {
	switch what {
	case whatChannels:
		now, _, err := s.Ethtool.Channels(iface)
		return strconv.Itoa(now), err
	case whatRxUsecs:
		now, err := s.Ethtool.RxUsecs(iface)
		return strconv.Itoa(now), err
	}
	return s.read(what)
}

// running tells whether a program of that name runs.
func (s System) running(name string) bool {
	comms, _ := filepath.Glob(s.path("/proc/[0-9]*/comm"))
	for _, file := range comms {
		if b, err := os.ReadFile(file); err == nil && string(b) == name+"\n" {
			return true
		}
	}
	return false
}
