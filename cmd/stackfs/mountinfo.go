package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// fsType is what /proc/mounts calls the file system.
const fsType = "fuse.stackfs"

// A mountPoint is a mounted tree of stacks.
type mountPoint struct {
	id  int
	dir string
}

// mounts returns the trees that are mounted in this mount namespace, in the
// order of their directories. Of several on one directory it is the
// uppermost; a node that is bound elsewhere is not a tree.
func (e env) mounts() ([]mountPoint, error) {
	text, err := os.ReadFile(e.mountinfo)
	if err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	var list []mountPoint
	for line := range strings.Lines(string(text)) {
		// id parent major:minor root directory options... - type source options
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if dash < 6 || dash+1 >= len(f) || f[dash+1] != fsType || f[3] != "/" {
			continue
		}
		id, err := strconv.Atoi(f[0])
		if err != nil {
			continue
		}
		m := mountPoint{id: id, dir: unescapeMount(f[4])}
		list = slices.DeleteFunc(list, func(o mountPoint) bool { return o.dir == m.dir })
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b mountPoint) int { return strings.Compare(a.dir, b.dir) })
	return list, nil
}

// unescapeMount undoes \ooo, by which the kernel writes blanks, line ends
// and backslashes.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
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
