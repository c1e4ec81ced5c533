package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// journalMu is held while the directory of the journals comes and goes.
var journalMu sync.Mutex

// A journal is the list of the steps done for one stack, on tmpfs: it ends
// with the namespaces that it is about, at a reboot.
type journal struct {
	path string

	Of    stacknode.NetnsSpec // where the namespace is from; no options
	NetNS stacknode.NSID
	Steps []step
	lost  []step // done to a namespace that is not there any more
}

// loadJournal returns the journal of a stack whose namespace is ns.
func loadJournal(runDir string, spec stacknode.Spec, ns stacknode.NSID) (*journal, error) {
	from := stacknode.NetnsSpec{Name: spec.Netns.Name, PID: spec.Netns.PID, Path: spec.Netns.Path}
	if runDir == "" {
		return &journal{Of: from, NetNS: ns}, nil
	}
	j, err := readJournal(filepath.Join(runDir, "undo", spec.Name))
	if err != nil {
		return nil, err
	}
	if j.NetNS != ns {
		j.lost, j.Steps = j.Steps, nil
	}
	j.Of, j.NetNS = from, ns
	return j, nil
}

// readJournal reads the file of a journal, which may not exist.
func readJournal(path string) (*journal, error) {
	j := &journal{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, j); err != nil {
		return nil, fmt.Errorf("%s is damaged (remove it; what it lists stays): %w: %w", path, unix.EUCLEAN, err)
	}
	return j, nil
}

func (j *journal) find(st step) *step {
	i := slices.IndexFunc(j.Steps, st.same)
	if i < 0 {
		return nil
	}
	return &j.Steps[i]
}

// put writes st down before it is done.
func (j *journal) put(st step) error {
	if st.Forget {
		return nil
	}
	if at := j.find(st); at != nil {
		st.Found = at.Found
		*at = st
	} else {
		j.Steps = append(j.Steps, st)
	}
	return j.save()
}

// update writes down which links an uplink of ours has. What other steps
// have found is how it was before their first time, and stays.
func (j *journal) update(st step) error {
	at := j.find(st)
	if at == nil || st.Op != opUplink || at.Found == st.Found {
		return nil
	}
	at.Found = st.Found
	return j.save()
}

func (j *journal) remove(st step) error {
	n := len(j.Steps)
	j.Steps = slices.DeleteFunc(j.Steps, st.same)
	if len(j.Steps) == n {
		return nil
	}
	return j.save()
}

// dropStale undoes the steps that are not wanted.
func (j *journal) dropStale(sp *space, want []step) error {
	for _, st := range slices.Backward(j.lost) {
		if err := undo(&space{}, &st); err != nil {
			return err
		}
	}
	j.lost = nil
	for _, st := range slices.Backward(slices.Clone(j.Steps)) {
		if slices.ContainsFunc(want, st.same) {
			continue
		}
		if err := errors.Join(undo(sp, &st), j.remove(st)); err != nil {
			return err
		}
	}
	return nil
}

// undoAll undoes every step, the last one first, and goes on after errors.
func (j *journal) undoAll(sp *space) error {
	var errs []error
	for _, st := range slices.Backward(slices.Concat(j.lost, j.Steps)) {
		errs = append(errs, undo(sp, &st))
	}
	j.lost, j.Steps = nil, nil
	return errors.Join(append(errs, j.save())...)
}

func undo(sp *space, st *step) error {
	op, ok := ops[st.Op]
	if !ok || sp.do == nil && st.Op != opUplink {
		return nil // gone with the namespace
	}
	if err := op.undo(sp, st); err != nil {
		return fmt.Errorf("take back %v: %w", *st, err)
	}
	return nil
}

// describeUplink returns the names of the uplink's ends, empty without one.
func (j *journal) describeUplink() string {
	for _, st := range j.Steps {
		switch {
		case st.Op != opUplink:
		case st.Uplink.Type == "macvlan":
			return fmt.Sprintf("macvlan %s on %s", st.Uplink.Name, st.Uplink.Parent)
		case st.Uplink.Bridge != "":
			return fmt.Sprintf("veth %s, %s on bridge %s", st.Uplink.Name, st.Found.HostName, st.Uplink.Bridge)
		default:
			return fmt.Sprintf("veth %s, %s on the host", st.Uplink.Name, st.Found.HostName)
		}
	}
	return ""
}

// save replaces the file in one rename, or removes it with the last step.
func (j *journal) save() error {
	if j.path == "" {
		return fmt.Errorf("no directory to note changes of the namespace in: %w", unix.EINVAL)
	}
	journalMu.Lock()
	defer journalMu.Unlock()
	dir := filepath.Dir(j.path)
	if len(j.Steps) == 0 {
		if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		_ = os.Remove(dir) // if it was the last
		return nil
	}
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp := dir + ".new" // of all journals: journalMu is held
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, j.path)
}
