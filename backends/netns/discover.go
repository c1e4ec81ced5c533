package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"

	"github.com/stackfs/stackfs/stacknode"
)

// A Wanted is a stack that is to be there while a named namespace is.
type Wanted struct {
	Spec   stacknode.Spec
	Origin stacknode.Origin
}

// Discovery says what a Discoverer works on.
type Discovery struct {
	Registry *stacknode.Registry

	// Wanted returns the stacks that live in the namespace of that name:
	// those of the configuration that name it, first, and where namespaces
	// are to appear by themselves one of OriginDiscover. It is called when
	// the namespace has come, also for those that are there at the start.
	Wanted func(namespace string) []Wanted

	// Changed, if not nil, is called after a stack was added.
	Changed func(stack string)

	Log *slog.Logger
}

// A Discoverer makes stacks when the named namespaces that they live in
// come, and drops them when those go, within milliseconds and whoever made
// the stack: nothing of ours keeps a namespace alive that ip netns del has
// deleted. Stacks whose namespace was given by another path are dropped
// when that is unmounted.
//
// Nothing is remembered of a name: what an event says is compared with what
// is there, so an event that was lost or merged does no harm.
type Discoverer struct {
	Discovery
	dir string // NamedDir
	own stacknode.NSID

	events *fsnotify.Watcher
	mounts *mountWatch
	retry  retries

	closing sync.Once
	stop    chan struct{}
	done    chan struct{}
}

// Discover adds the stacks of the namespaces that are there, and starts to
// watch. An error means that nothing is watched.
func Discover(cfg Discovery) (_ *Discoverer, err error) {
	d := &Discoverer{
		Discovery: cfg, dir: NamedDir,
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.own, err = ownNetns(); err != nil {
		return nil, err
	}
	if d.events, err = fsnotify.NewWatcher(); err != nil {
		return nil, fmt.Errorf("watch %s: %w", d.dir, err)
	}
	if d.mounts, err = watchMounts(); err != nil {
		return nil, errors.Join(err, d.events.Close())
	}
	if err := d.attach(); err != nil {
		return nil, errors.Join(err, d.mounts.Close(), d.events.Close())
	}
	go d.loop()
	return d, nil
}

// Close stops watching and waits until no stack is being added or dropped.
// The stacks stay.
func (d *Discoverer) Close() error {
	var err error
	d.closing.Do(func() {
		close(d.stop)
		<-d.done
		err = errors.Join(d.mounts.Close(), d.events.Close())
	})
	return err
}

func (d *Discoverer) loop() {
	defer close(d.done)
	defer d.retry.stop()
	for {
		select {
		case <-d.stop:
			return
		case ev, ok := <-d.events.Events:
			if !ok {
				return
			}
			d.event(ev)
		case err, ok := <-d.events.Errors:
			if !ok {
				return
			}
			// Of an overflow of the queue, mostly.
			d.Log.Warn("namespace events lost, looking at all", "err", err)
			d.rescan()
		case <-d.mounts.C:
			d.lookAgain()
			d.checkPaths()
		case <-d.retry.C():
			d.lookAgain()
			d.retry.arm()
		}
	}
}

func (d *Discoverer) event(ev fsnotify.Event) {
	switch {
	case ev.Name == d.dir && ev.Has(fsnotify.Remove|fsnotify.Rename),
		ev.Name == d.dir && ev.Has(fsnotify.Create):
		if err := d.attach(); err != nil {
			d.Log.Error("named namespaces are not watched any more", "dir", d.dir, "err", err)
		}
	case filepath.Dir(ev.Name) == d.dir && ev.Has(fsnotify.Create|fsnotify.Remove|fsnotify.Rename):
		d.reconcile(filepath.Base(ev.Name))
	}
}

// attach watches the directory, or its parent until it is there, and looks
// at what is in it.
func (d *Discoverer) attach() error {
	parent := filepath.Dir(d.dir)
	err := d.events.Add(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.events.Add(parent); err != nil {
			return fmt.Errorf("watch %s: %w", parent, err)
		}
		if err = d.events.Add(d.dir); errors.Is(err, fs.ErrNotExist) {
			d.rescan()
			return nil // its creation is an event
		}
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", d.dir, err)
	}
	if err := d.events.Remove(parent); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		return fmt.Errorf("watch %s: %w", parent, err)
	}
	d.rescan()
	return nil
}

// rescan looks at every name there is, in the directory and in the registry.
func (d *Discoverer) rescan() {
	names := map[string]bool{}
	entries, err := os.ReadDir(d.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.Log.Warn("cannot list named namespaces", "dir", d.dir, "err", err)
		return
	}
	for _, e := range entries {
		names[e.Name()] = true
	}
	for _, s := range d.Registry.List() {
		if name, ok := d.nameOf(s.Spec()); ok {
			names[name] = true
		}
	}
	for name := range names {
		d.reconcile(name)
	}
}
