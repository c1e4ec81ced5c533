package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stackfs/stackfs/backends/keeper"
)

// A mountPoint is a mounted tree of stacks.
type mountPoint struct {
	id  int
	dir string
}

// mounts returns the trees that are mounted in this mount namespace, in the
// order of their directories. Of several on one directory it is the
// uppermost; a node that is bound elsewhere is not a tree.
func (e env) mounts() ([]mountPoint, error) {
	all, err := keeper.ReadMounts(e.mountinfo)
	if err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	var list []mountPoint
	for _, mounted := range all {
		if mounted.Type != keeper.FSType || mounted.Root != "/" {
			continue
		}
		m := mountPoint{id: mounted.ID, dir: mounted.Dir}
		list = slices.DeleteFunc(list, func(o mountPoint) bool { return o.dir == m.dir })
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b mountPoint) int { return strings.Compare(a.dir, b.dir) })
	return list, nil
}

// onlyMount returns the one tree of the machine.
func (e env) onlyMount() (mountPoint, error) {
	list, err := e.mounts()
	if err != nil {
		return mountPoint{}, err
	}
	switch len(list) {
	case 0:
		return mountPoint{}, fmt.Errorf("%w (stackfs mount /dev/net mounts one)", errNotServed)
	case 1:
		return list[0], nil
	}
	dirs := make([]string, len(list))
	for i, m := range list {
		dirs[i] = m.dir
	}
	return mountPoint{}, fmt.Errorf("there are several stackfs mounts, say which by its path: %s", strings.Join(dirs, ", "))
}

// mountAt returns the tree that is mounted on dir, itself or where it leads
// to as a symbolic link.
func (e env) mountAt(dir string) (mountPoint, error) {
	list, err := e.mounts()
	if err != nil {
		return mountPoint{}, err
	}
	abs, err := e.absPath(dir)
	if err != nil {
		return mountPoint{}, err
	}
	for range 2 {
		for _, m := range list {
			if m.dir == abs {
				return m, nil
			}
		}
		// The path may lead through a mount whose daemon is stuck.
		var next string
		next, err = within(context.Background(), e.patience, func() (string, error) { return followLink(abs) })
		if err != nil {
			break
		}
		abs = next
	}
	above := mountAbove(list, abs)
	if errors.Is(err, errNoAnswer) {
		return mountPoint{}, fmt.Errorf("%s: %w", dir, detachHint(err, above))
	}
	if above != "" {
		return mountPoint{}, fmt.Errorf("%s: %w there, but on %s (stackfs ls %s shows what it has)", dir, errNotServed, above, above)
	}
	return mountPoint{}, fmt.Errorf("%s: %w there (stackfs mount %s mounts one)", dir, errNotServed, dir)
}

// mountAbove returns the directory of the tree that path is in, as far as its
// text tells; empty if in none.
func mountAbove(list []mountPoint, path string) string {
	above := ""
	for _, m := range list {
		if strings.HasPrefix(path, strings.TrimSuffix(m.dir, "/")+"/") && len(m.dir) > len(above) {
			above = m.dir
		}
	}
	return above
}

// detachHint adds to err, which says that a daemon does not answer, what can
// be done about the mount on dir; empty if that is not known.
func detachHint(err error, dir string) error {
	if dir == "" {
		dir = "DIR"
	}
	return fmt.Errorf("%w (stackfs umount --force %s detaches the mount)", err, dir)
}

// absPath is filepath.Abs, which looks at the working directory: that may be
// in a mount whose daemon is stuck.
func (e env) absPath(path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	abs, err := within(context.Background(), e.patience, func() (string, error) { return filepath.Abs(path) })
	if errors.Is(err, errNoAnswer) {
		err = fmt.Errorf("%s: the working directory: %w", path, detachHint(err, ""))
	}
	return abs, err
}

// followLink resolves the parents of path, and path itself if it is a link.
// It does not look at what a link leads to, which may be a dead mount.
func followLink(path string) (string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	path = filepath.Join(parent, filepath.Base(path))
	if target, err := os.Readlink(path); err == nil {
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		path = filepath.Clean(target)
	}
	return path, nil
}
