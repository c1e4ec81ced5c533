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
	abs, err := filepath.Abs(dir)
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
		abs, err = within(context.Background(), e.patience, func() (string, error) { return followLink(abs) })
		if err != nil {
			break
		}
	}
	if errors.Is(err, errNoAnswer) {
		return mountPoint{}, fmt.Errorf("%s: %w", dir, err)
	}
	return mountPoint{}, fmt.Errorf("%s: %w there (stackfs mount %s mounts one)", dir, errNotServed, dir)
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
