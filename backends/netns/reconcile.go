package netns

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/stackfs/stackfs/stacknode"
)

// reconcile makes the registry agree with what is at dir/name.
func (d *Discoverer) reconcile(name string) {
	f, id, err := lookNS(filepath.Join(d.dir, name))
	switch {
	case err == nil:
		f.Close()
	case errors.Is(err, fs.ErrNotExist):
		d.retry.forget(name)
	case errors.Is(err, errNotNetns):
		// ip netns add makes the file first and mounts then, which is no
		// event of the directory.
		d.retry.later(name)
	default:
		if d.retry.later(name) == 1 {
			d.Log.Warn("cannot look at a named namespace", "namespace", name, "err", err)
		}
		return
	}
	d.dropOthers(name, id)
	if err != nil {
		return
	}
	if err := d.add(name, id); err == nil {
		d.retry.forget(name)
	} else if n := d.retry.later(name); n == 1 || n == maxTries {
		d.Log.Warn("cannot make the stack of a namespace", "namespace", name, "tries", n, "err", err)
		if n == maxTries {
			d.retry.forget(name)
		}
	}
}

// dropOthers drops the stacks that live in the namespace name, but are not
// in the one with that id: theirs was deleted.
func (d *Discoverer) dropOthers(name string, id stacknode.NSID) {
	for _, s := range d.Registry.List() {
		if of, ok := d.nameOf(s.Spec()); !ok || of != name {
			continue
		}
		if is, _, ok := s.NetNS(); ok && is != id {
			d.drop(s)
		}
	}
}

// checkPaths drops the stacks whose namespace was given by a path that
// leads there no more.
func (d *Discoverer) checkPaths() {
	for _, s := range d.Registry.List() {
		spec := s.Spec()
		if spec.Kind != stacknode.KindNetns || spec.Netns.Path == "" {
			continue
		}
		f, id, err := lookNS(spec.Netns.Path)
		if err == nil {
			f.Close()
		}
		if is, _, ok := s.NetNS(); ok && is != id && (err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotNetns)) {
			d.drop(s)
		}
	}
}

func (d *Discoverer) drop(s *stacknode.Stack) {
	d.Log.Info("namespace deleted, stack dropped", "stack", s.Name())
	err := d.Registry.Drop(s.Name())
	if err != nil && !errors.Is(err, stacknode.ErrNotFound) {
		d.Log.Error("drop stack", "stack", s.Name(), "err", err)
	}
}

// add makes the stacks of the namespace that are not there yet.
func (d *Discoverer) add(name string, id stacknode.NSID) error {
	var errs []error
	for _, w := range d.Wanted(name) {
		stack := w.Spec.Name
		if w.Origin == stacknode.OriginDiscover && !d.presentable(name, stack, id) {
			continue
		}
		if s, err := d.Registry.Get(stack); err == nil {
			if of, ok := d.nameOf(s.Spec()); !ok || of != name {
				d.Log.Info("namespace skipped: another stack has the name", "namespace", name, "stack", stack, "origin", s.Origin())
			}
			continue
		}
		_, err := d.Registry.Add(w.Spec, w.Origin)
		switch {
		case err == nil:
			d.Log.Info("namespace found, stack added", "namespace", name, "stack", stack)
			if d.Changed != nil {
				d.Changed(stack)
			}
		case errors.Is(err, stacknode.ErrExists), errors.Is(err, fs.ErrNotExist):
			// Added or deleted meanwhile; of the latter comes an event.
		default:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// presentable tells whether a namespace is to appear without anybody having
// asked for it.
func (d *Discoverer) presentable(name, stack string, id stacknode.NSID) bool {
	if err := stacknode.CheckName(stack); err != nil {
		d.Log.Warn("namespace skipped", "namespace", name, "err", err)
		return false
	}
	if id == d.own {
		// ip netns attach NAME 1: as a stack it would let everybody out of
		// his sandbox, which the stack kernel does not.
		d.Log.Warn("namespace skipped: it is the daemon's own", "namespace", name)
		return false
	}
	return true
}

// nameOf returns the name of the namespace that a stack lives in; ok is
// false if it has none in dir.
func (d *Discoverer) nameOf(spec stacknode.Spec) (name string, ok bool) {
	if spec.Kind != stacknode.KindNetns {
		return "", false
	}
	if spec.Netns.Name != "" {
		return spec.Netns.Name, true
	}
	p := filepath.Clean(spec.Netns.Path)
	if rest, below := strings.CutPrefix(p, "/var/run/"); below { // a link to /run
		p = "/run/" + rest
	}
	return filepath.Base(p), filepath.Dir(p) == d.dir
}

// lookAgain looks at the names that were not yet what they will be.
func (d *Discoverer) lookAgain() {
	for _, name := range d.retry.waiting() {
		d.reconcile(name)
	}
}
