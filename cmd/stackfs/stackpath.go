package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// isBareName tells whether arg names a stack of the one mount there is
// rather than a path.
func isBareName(arg string) bool {
	return arg != "" && arg != "." && arg != ".." && !strings.Contains(arg, "/")
}

// stackPath returns the absolute path of a stack that is to be used. It may
// be anywhere: a node can be bound into another tree.
func (e env) stackPath(arg string) (string, error) {
	if !isBareName(arg) {
		if arg == "" {
			return "", errors.New("the name of the stack is empty")
		}
		return e.absPath(arg)
	}
	m, err := e.onlyMount()
	if err != nil {
		return "", fmt.Errorf("%s: %w", arg, err)
	}
	return filepath.Join(m.dir, arg), nil
}

// stackIn returns the mount and the name of a stack that is to be added or
// removed, and so must be an entry of a mount.
func (e env) stackIn(arg string) (m mountPoint, name string, err error) {
	path, err := e.stackPath(arg)
	if err != nil {
		return m, "", err
	}
	switch m, err := e.mountAt(path); {
	case err == nil:
		return m, "", fmt.Errorf("%s: is the mount; a stack is %s/NAME", arg, strings.TrimSuffix(arg, "/"))
	case errors.Is(err, errNoAnswer):
		return m, "", err
	}
	m, err = e.mountAt(filepath.Dir(path))
	return m, filepath.Base(path), err
}

// stackAt returns the mount and the name of the entry that path names. Unlike
// stackIn it takes no bare name.
func (e env) stackAt(path string) (m mountPoint, name string, err error) {
	path, err = e.absPath(path)
	if err != nil {
		return m, "", err
	}
	m, err = e.mountAt(filepath.Dir(path))
	return m, filepath.Base(path), err
}

// explain turns the error of an access to path, a stack of the tree dir or
// the tree itself, into what it means and what can be done.
func explain(err error, path, dir string) error {
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED):
		return fmt.Errorf("%s: the daemon of %s is gone (stackfs mount %s takes the mount over): %w", path, dir, dir, err)
	case errors.Is(err, errNoAnswer):
		return fmt.Errorf("%s: %w", path, detachHint(err, dir))
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return &notFoundError{path: path, dir: dir, err: err}
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: you may not use this stack (stackfs ls %s shows who may): %w", path, dir, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// A notFoundError is a path where no stack is.
type notFoundError struct {
	path, dir string
	err       error
}

func (e *notFoundError) Error() string {
	return fmt.Sprintf("%s: no such stack (stackfs ls %s shows what there is)", e.path, e.dir)
}

func (e *notFoundError) Unwrap() error { return errNoStack }
