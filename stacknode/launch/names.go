package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hiddenDirs have the sockets by which libc asks a service of the host to
// resolve names: nscd, nss-resolve, nss-mdns.
var hiddenDirs = []string{"/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon", "/var/run/nscd", "/var/run/avahi-daemon"}

// scratchDirs are covered for a moment, in the private namespace, by the
// file system that holds the copies.
var scratchDirs = []string{"/mnt", "/srv", "/media", "/tmp", "/var"}

// privateMounts gives the calling thread a mount namespace of its own that
// still sees what is mounted later outside.
func privateMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return slaveMounts()
}

func slaveMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// nameFiles reads the files that replace those of /etc in the stack. They
// are read before the filter and the mounts: later the daemon may be gone.
func nameFiles(stack string) (map[string][]byte, error) {
	dir := filepath.Join(stack, "etc")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// coverNames mounts files over those of the same names in /etc and hides
// the sockets of name services. It needs a mount namespace of its own.
func coverNames(files map[string][]byte) error {
	var covers []cover
	for name, text := range files {
		target, err := filepath.EvalSymlinks(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) && name != "resolv.conf" {
			continue // as ip-netns(8): there is nothing to cover
		}
		if err != nil {
			return fmt.Errorf("the stack's %s has nothing to cover: %w", name, err)
		}
		covers = append(covers, cover{target, text})
	}
	if _, own := files["resolv.conf"]; !own {
		keep, err := hiddenResolvConf()
		if err != nil {
			return err
		}
		covers = append(covers, keep...)
	}
	return coverAll(covers)
}

// A cover is a text to be seen in place of a file.
type cover struct {
	target string
	text   []byte
}

// hiddenResolvConf returns the host's resolv.conf if that is in a directory
// that will be hidden.
func hiddenResolvConf() ([]cover, error) {
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return nil, nil // none, or a dangling link: as on the host
	}
	for _, dir := range hiddenDirs {
		if filepath.Dir(target) != dir {
			continue
		}
		text, err := os.ReadFile(target)
		if err != nil {
			return nil, err
		}
		return []cover{{target, text}}, nil
	}
	return nil, nil
}

func coverAll(covers []cover) error {
	rest := covers
	for _, dir := range hiddenDirs {
		var err error
		if rest, err = hide(dir, rest); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	scratch, err := mountScratch()
	if err != nil {
		return err
	}
	// The files stay as long as something is mounted from them.
	defer unix.Unmount(scratch, unix.MNT_DETACH)
	for i, c := range rest {
		name := filepath.Join(scratch, fmt.Sprint(i))
		if err := os.WriteFile(name, c.text, 0o644); err != nil {
			return err
		}
		if err := unix.Mount(name, c.target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", c.target, err)
		}
	}
	return nil
}

// hide makes dir look empty but for the files of covers that belong there.
// It returns the other covers.
func hide(dir string, covers []cover) (rest []cover, err error) {
	st, err := os.Lstat(dir)
	if err != nil || !st.IsDir() {
		return covers, nil
	}
	if resolved, err := filepath.EvalSymlinks(dir); err != nil || resolved != dir {
		return covers, nil // the same directory by another name
	}
	if err := mountTmpfs(dir); err != nil {
		return nil, fmt.Errorf("hide %s: %w", dir, err)
	}
	for _, c := range covers {
		if filepath.Dir(c.target) != dir {
			rest = append(rest, c)
		} else if err := os.WriteFile(c.target, c.text, 0o644); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

func mountScratch() (string, error) {
	for _, dir := range scratchDirs {
		st, err := os.Lstat(dir)
		if err != nil || !st.IsDir() {
			continue
		}
		if err := mountTmpfs(dir); err != nil {
			return "", fmt.Errorf("mount a file system for name service files: %w", err)
		}
		return dir, nil
	}
	return "", fmt.Errorf("no directory to mount on for a moment (%v): %w", scratchDirs, fs.ErrNotExist)
}

func mountTmpfs(dir string) error {
	return unix.Mount("stackfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=8m,mode=755")
}
