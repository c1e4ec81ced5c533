package netns

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// namesDir is where ip-netns(8) looks for files that stand for those in
// /etc, in a directory for each namespace.
const namesDir = "/etc/netns"

// maxNameFile bounds a file that NameFiles reads, in bytes.
const maxNameFile = 4 << 20

// NameFiles implements stacknode.NameService: the files in /etc/netns/NAME,
// where NAME is that of the namespace or else of the stack, and over them
// the resolv_conf of the configuration. They are read anew each time.
func (n *Netns) NameFiles() (map[string][]byte, error) {
	name := n.spec.Netns.Name
	if name == "" {
		name = n.spec.Name
	}
	files, err := readNameDir(filepath.Join(namesDir, name))
	if err != nil {
		return nil, err
	}
	conf, err := resolvConf(n.spec.Netns)
	if err != nil {
		return nil, err
	}
	if conf != nil {
		if files == nil {
			files = map[string][]byte{}
		}
		files["resolv.conf"] = conf
	}
	return files, nil
}

func readNameDir(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files map[string][]byte
	for _, e := range entries {
		b, err := readRegular(filepath.Join(dir, e.Name()))
		if errors.Is(err, errNotRegular) || errors.Is(err, fs.ErrNotExist) {
			continue // a directory, or a link that leads nowhere
		}
		if err != nil {
			return nil, err
		}
		if files == nil {
			files = map[string][]byte{}
		}
		files[e.Name()] = b
	}
	return files, nil
}

// resolvConf returns the resolv.conf of the options, nil without one.
func resolvConf(s stacknode.NetnsSpec) ([]byte, error) {
	switch {
	case s.ResolvConf == "":
		return nil, nil
	case strings.Contains(s.ResolvConf, "\n"):
		return []byte(s.ResolvConf), nil
	}
	b, err := readRegular(s.ResolvConf)
	if err != nil {
		return nil, fmt.Errorf("resolv_conf: %w (a path, or the text itself with a newline)", err)
	}
	return b, nil
}

var errNotRegular = fmt.Errorf("not a regular file: %w", unix.EINVAL)

// readRegular reads a regular file; O_NONBLOCK, so that a FIFO does not
// keep us.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", path, errNotRegular)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxNameFile+1))
	if len(b) > maxNameFile {
		return nil, fmt.Errorf("%s: larger than %d bytes: %w", path, maxNameFile, unix.EFBIG)
	}
	return b, err
}
