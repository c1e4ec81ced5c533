package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

// An owner is a Netns with something to remove: a namespace or changes.
type owner struct{ *Netns }

var _ stacknode.Destroyer = owner{}

// Destroy implements stacknode.Destroyer: it takes back every change that
// was made for the stack, and unpins a namespace that was made with it.
// While sockets are left in that (the stack was removed by force), it keeps
// its links and they go on; it ends with the last of them.
func (o owner) Destroy() error {
	id, _ := o.w.NetNS()
	j, err := loadJournal(o.env.RunDir, o.spec, id)
	if err == nil {
		err = takeBack(o.env, j)
	}
	if o.made {
		err = errors.Join(err, unpin(o.env.RunDir, o.spec.Name))
	}
	return err
}

// Sweep takes back what an earlier daemon changed for stacks that there are
// no more: keep tells which there are. A daemon calls it at its start, when
// the stacks of its configuration are up. Namespaces that are pinned are
// left alone, see [Pinned].
func Sweep(env Env, keep func(stack string) bool) error {
	entries, err := os.ReadDir(filepath.Join(env.RunDir, "undo"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pinned, err := Pinned(env.RunDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if keep(e.Name()) || slices.Contains(pinned, e.Name()) {
			continue
		}
		j, err := readJournal(filepath.Join(env.RunDir, "undo", e.Name()))
		if err == nil {
			err = takeBack(env, j)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("left by stack %s: %w", e.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// takeBack undoes what the journal holds. A namespace that is gone took
// most of it along; what is left is on the host.
func takeBack(env Env, j *journal) error {
	if len(j.Steps)+len(j.lost) == 0 {
		return nil
	}
	sp := &space{}
	defer sp.Close()
	if f, err := reopen(env, j); err == nil {
		defer f.Close()
		w, err := worker.New(worker.Config{NetNS: f, Env: env.Worker})
		if err != nil {
			return err
		}
		defer w.Close()
		sp.ns, sp.do = f, w.Do
	}
	if makes(j.Of) && sp.do != nil {
		// The rest goes with the namespace.
		j.Steps = slices.DeleteFunc(j.Steps, func(st step) bool { return st.Op != opUplink })
		if used, err := socketsInUse(sp.do); err != nil || used > 0 {
			j.Steps = nil
		}
	}
	return j.undoAll(sp)
}

// reopen opens the namespace of a journal again if it is still where it
// was.
func reopen(env Env, j *journal) (*os.File, error) {
	path := pinPath(env.RunDir, filepath.Base(j.path))
	switch {
	case j.Of.Name != "":
		path = filepath.Join(NamedDir, j.Of.Name)
	case j.Of.PID != 0:
		path = fmt.Sprintf("/proc/%d/ns/net", j.Of.PID)
	case j.Of.Path != "":
		path = j.Of.Path
	}
	f, id, err := openNS(path)
	if err == nil && id != j.NetNS {
		f.Close()
		return nil, fmt.Errorf("%s is another namespace now: %w", path, unix.ENOENT)
	}
	return f, err
}
