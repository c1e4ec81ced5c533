package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// pinMu is held while files come and go in a pin directory, so that the
// directory is not removed under a new one.
var pinMu sync.Mutex

func pinDir(runDir string) string         { return filepath.Join(runDir, "ns") }
func pinPath(runDir, stack string) string { return filepath.Join(runDir, "ns", stack) }

// Pinned returns the names of the stacks whose namespaces are pinned below
// runDir, sorted. New adopts the one of a stack of that name.
func Pinned(runDir string) ([]string, error) {
	entries, err := os.ReadDir(pinDir(runDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		f, _, err := lookNS(pinPath(runDir, e.Name()))
		if err != nil {
			continue // left over by a crash in the middle
		}
		f.Close()
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names, nil
}

// adoptOrMake returns the namespace that is pinned for stack, or makes and
// pins one, which fresh tells.
func adoptOrMake(runDir, stack string) (f *os.File, fresh bool, err error) {
	if runDir == "" {
		return nil, false, fmt.Errorf("no directory to pin namespaces in: %w", unix.EINVAL)
	}
	path := pinPath(runDir, stack)
	f, _, err = openNS(path)
	switch {
	case err == nil:
		return f, false, nil
	case errors.Is(err, errNotNetns):
		if err := removeLeftover(path); err != nil {
			return nil, false, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, err
	}
	if err := makePinFile(runDir, path); err != nil {
		return nil, false, err
	}
	err = inNewNetns(func() error {
		return mount("/proc/thread-self/ns/net", path, unix.MS_BIND)
	})
	if err == nil {
		f, _, err = openNS(path)
	}
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("make a network namespace: %w", err), unpin(runDir, stack))
	}
	return f, true, nil
}

// removeLeftover removes what a crash left between making the file of a pin
// and mounting the namespace on it.
func removeLeftover(path string) error {
	pinMu.Lock()
	defer pinMu.Unlock()
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() != 0 {
		return fmt.Errorf("%s is in the way of a namespace (not ours; move it away): %w", path, unix.EEXIST)
	}
	return os.Remove(path)
}

// makePinFile makes the empty file at path that a namespace is mounted on,
// and the directory that it is in. The directory is a mount of its own
// that is private: a pin that propagated to the mount namespaces of other
// programs would have to be taken back from each.
func makePinFile(runDir, path string) error {
	pinMu.Lock()
	defer pinMu.Unlock()
	dir := pinDir(runDir)
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// EINVAL: not a mount point.
	if err := mount("", dir, unix.MS_PRIVATE); errors.Is(err, unix.EINVAL) {
		if err := mount(dir, dir, unix.MS_BIND); err != nil {
			return err
		}
		if err := mount("", dir, unix.MS_PRIVATE); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	return f.Close()
}

// unpin removes the pin of stack, and the directory after the last one. It
// is no error if it is gone.
func unpin(runDir, stack string) error {
	path := pinPath(runDir, stack)
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("umount %s: %w", path, err)
	}
	pinMu.Lock()
	defer pinMu.Unlock()
	// The unlink also ends copies of the mount in other mount namespaces
	// (since 3.18), such as those made by unshare -m.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := pinDir(runDir)
	if left, err := hasEntries(dir); err != nil || left {
		return nil
	}
	// EINVAL: not mounted; EBUSY: somebody is in it. Both can wait for the
	// next time.
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err == nil || errors.Is(err, unix.EINVAL) {
		_ = os.Remove(dir)
	}
	return nil
}

func hasEntries(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, _ := d.Readdirnames(1)
	return len(names) > 0, nil
}

func mount(source, target string, flags uintptr) error {
	if err := unix.Mount(source, target, "", flags, ""); err != nil {
		return &os.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// ownNetns returns the namespace of the daemon.
func ownNetns() (stacknode.NSID, error) {
	f, id, err := lookNS("/proc/self/ns/net")
	if err == nil {
		f.Close()
	}
	return id, err
}
