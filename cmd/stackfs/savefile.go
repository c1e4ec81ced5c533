package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// A writeError is an image that was not written.
type writeError struct {
	path string // where to
	part bool   // a part of it may be there
	err  error
}

func (e *writeError) Error() string {
	left := "nothing of it is left there"
	if e.part {
		left = "a part of it may be there"
	}
	return fmt.Sprintf("%s: the image was not written, %s: %v", e.path, left, e.err)
}

func (e *writeError) Unwrap() error { return e.err }

// saveFile makes the file at path from what fill writes, for its user alone:
// complete or not at all. A file that was there is replaced, and stays as it
// was on an error. With durable the file has reached the disk when saveFile
// returns. Errors of the file are a *writeError; those of fill are returned
// as they are. What is not a regular file, as a pipe, is written to.
func saveFile(path string, durable bool, fill func(io.Writer) error) (err error) {
	if info, err := os.Stat(path); err == nil {
		if !info.Mode().IsRegular() {
			return writeInto(path, fill)
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return &writeError{path: path, err: reason(err)}
		}
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return &writeError{path: path, err: reason(err)}
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := fill(imageWriter{f, path, false}); err != nil {
		return err
	}
	if durable {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return &writeError{path: path, err: reason(err)}
	}
	if durable {
		err = syncDir(dir)
	}
	return err
}

// writeInto writes to what is there already.
func writeInto(path string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return &writeError{path: path, err: reason(err)}
	}
	defer f.Close()
	return fill(imageWriter{f, path, true})
}

// syncDir makes the names in a directory durable. The file is there whatever
// it returns.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncIfFile(d)
}

// syncIfFile is fsync(2) of what has a disk behind it.
func syncIfFile(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EROFS) {
		return nil // pipes, sockets, devices
	}
	return err
}

// An imageWriter makes a *writeError of each error of w, which path names.
type imageWriter struct {
	w    io.Writer
	path string
	part bool // what w got stays there
}

func (w imageWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		err = &writeError{w.path, w.part, reason(err)}
	}
	return n, err
}
