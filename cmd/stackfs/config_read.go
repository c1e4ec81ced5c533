package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxConfig is the largest configuration that is read, in bytes.
const maxConfig = 1 << 20

// readConfig returns the text of a configuration that is fit to be obeyed.
func readConfig(path string) (text []byte, err error) {
	// O_NONBLOCK: a FIFO must not hold us up before Stat rejects it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &configError{File: path, Err: reason(err)}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &configError{File: path, Err: reason(err)}
	}
	if !info.Mode().IsRegular() {
		return nil, &configError{File: path, Err: errors.New("is not a regular file")}
	}
	if os.Geteuid() == 0 {
		if err := checkOwnership(path, info); err != nil {
			return nil, &configError{File: path, Err: err}
		}
	}
	text, err = io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("is larger than %d bytes", maxConfig)
	}
	if err != nil {
		return nil, &configError{File: path, Err: reason(err)}
	}
	return text, nil
}

// checkOwnership refuses a file that others than root can change, by itself
// or by putting another in its place.
func checkOwnership(path string, info fs.FileInfo) error {
	const why = "others than root can change it, and it hands out root's power"
	switch st := info.Sys().(*syscall.Stat_t); {
	case st.Uid != 0:
		return fmt.Errorf("belongs to user %d: %s (chown root %s)", st.Uid, why, path)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("has mode %04o: %s (chmod go-w %s)", info.Mode().Perm(), why, path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return reason(err)
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(real)} {
		d, err := os.Stat(dir)
		if err != nil {
			return reason(err)
		}
		switch st := d.Sys().(*syscall.Stat_t); {
		case st.Uid != 0:
			return fmt.Errorf("is in a directory of user %d: %s (move it to /etc)", st.Uid, why)
		case d.Mode().Perm()&0o022 != 0 && d.Mode()&fs.ModeSticky == 0:
			return fmt.Errorf("is in a directory with mode %04o: %s (chmod go-w %s)", d.Mode().Perm(), why, dir)
		}
	}
	return nil
}

// reason strips the path and the call off an error of package os: the
// message around it has a better place for them.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
