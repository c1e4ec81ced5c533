package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/stackfs/stackfs/stacknode"
)

// A stackInfo is what can be seen of a stack from outside.
type stackInfo struct {
	dir, name  string
	mode       fs.FileMode
	uid, gid   uint32
	accessible bool             // whether type and status could be read
	lines      []stacknode.Line // of the file status
}

func (s *stackInfo) path() string { return filepath.Join(s.dir, s.name) }

// get returns a value of the file status, empty if it has none.
func (s *stackInfo) get(key string) string {
	for _, l := range s.lines {
		if l.Key == key {
			return l.Value
		}
	}
	return ""
}

// octal writes the permission bits as the configuration does.
func (s *stackInfo) octal() string { return fmt.Sprintf("%04o", s.mode.Perm()) }

// owner and group return names, or numbers that have none.
func (s *stackInfo) owner() string {
	id := strconv.FormatUint(uint64(s.uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func (s *stackInfo) group() string {
	id := strconv.FormatUint(uint64(s.gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

// readStack looks at dir/name. What its mode keeps from us is left out;
// errNoStack says that the entry is something else.
func readStack(dir, name string) (*stackInfo, error) {
	s := &stackInfo{dir: dir, name: name}
	info, err := os.Lstat(s.path())
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return nil, errNoStack
	}
	s.mode, s.uid, s.gid = info.Mode(), st.Uid, st.Gid

	kind, err := readMountFile(filepath.Join(s.path(), "type"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoStack
	}
	var status string
	if err == nil {
		status, err = readMountFile(filepath.Join(s.path(), "status"))
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return s, nil
	case err != nil:
		return nil, err
	}
	s.accessible = true
	s.lines = parseStatus(status)
	if s.get("kind") == "" {
		s.lines = append([]stacknode.Line{{Key: "kind", Value: strings.TrimSpace(kind)}}, s.lines...)
	}
	return s, nil
}

// parseStatus reads "key: value" lines. Other lines are values without key.
func parseStatus(text string) []stacknode.Line {
	var lines []stacknode.Line
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			key, value = "", line
		}
		lines = append(lines, stacknode.Line{Key: strings.TrimSpace(key), Value: strings.TrimSpace(value)})
	}
	return lines
}

// readStacks looks at every stack of a mount, by name.
func (e env) readStacks(ctx context.Context, m mountPoint) ([]*stackInfo, error) {
	names, err := within(ctx, e.patience, func() ([]string, error) { return listStacks(m.dir) })
	if err != nil {
		return nil, explainMount(err, m)
	}
	var list []*stackInfo
	for _, name := range names {
		s, err := within(ctx, e.patience, func() (*stackInfo, error) { return readStack(m.dir, name) })
		switch {
		case err == nil:
			list = append(list, s)
		case errors.Is(err, errNoStack), errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV):
			// Something else, or gone since we listed it.
		default:
			return nil, explain(err, filepath.Join(m.dir, name), m.dir)
		}
	}
	return list, nil
}

// listStacks returns the directories of a mount.
func listStacks(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// explainMount is explain for an error of the mount itself.
func explainMount(err error, m mountPoint) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: %w", m.dir, reason(err))
	}
	return explain(err, m.dir, m.dir)
}
