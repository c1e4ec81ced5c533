package netns

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const mptcpEnabled = "net/mptcp/enabled"

// sysctlPath returns the path below /proc/sys of a key in either notation
// of sysctl(8): the first separator says whether dots or slashes separate;
// with dots, a slash is a dot in the name of a link
// (net.ipv4.conf.eth0/5.forwarding). Only keys below net are allowed.
func sysctlPath(key string) (string, error) {
	p := key
	if i := strings.IndexAny(p, "./"); i >= 0 && p[i] == '.' {
		p = strings.Map(func(c rune) rune {
			switch c {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return c
		}, p)
	}
	parts := strings.Split(p, "/")
	bad := slices.ContainsFunc(parts, func(s string) bool {
		return s == "" || s == "." || s == ".." || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f })
	})
	if bad || len(parts) < 2 || parts[0] != "net" {
		return "", invalid("sysctl %q is not a key below net (such as net.ipv4.ip_forward)", key)
	}
	return p, nil
}

// sysctlNames tells whether a path below /proc/sys has one of its parts
// named link, so that it exists from the link on only.
func sysctlNames(p, link string) bool {
	return slices.Contains(strings.Split(p, "/"), link)
}

func sysctlDone(sp *space, st, _ *step) (bool, error) {
	now, err := readSysctl(sp, st.Key)
	if st.Optional && errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	st.Found.Old = now
	// The kernel separates the numbers of a list by tabs.
	return err == nil && slices.Equal(strings.Fields(now), strings.Fields(st.Value)), err
}

func sysctlMake(sp *space, st *step) error { return writeSysctl(sp, st.Key, st.Value) }

func sysctlUndo(sp *space, st *step) error {
	err := writeSysctl(sp, st.Key, st.Found.Old)
	if errors.Is(err, unix.ENOENT) {
		return nil // went with its link
	}
	return err
}

func readSysctl(sp *space, key string) (string, error) {
	buf := make([]byte, 4096)
	n := 0
	err := withSysctl(sp, key, unix.O_RDONLY, func(fd int) (err error) {
		n, err = unix.Read(fd, buf)
		return err
	})
	return strings.TrimRight(string(buf[:max(n, 0)]), "\n"), err
}

func writeSysctl(sp *space, key, value string) error {
	err := withSysctl(sp, key, unix.O_WRONLY, func(fd int) error {
		_, err := unix.Write(fd, []byte(value+"\n"))
		return err
	})
	if err != nil {
		return fmt.Errorf("set to %q: %w", value, err)
	}
	return nil
}

// withSysctl opens the file of key as it is in the namespace: /proc/sys/net
// shows the one of the thread that looks it up.
func withSysctl(sp *space, key string, flags int, fn func(fd int) error) error {
	err := sp.do(func() error {
		fd, err := unix.Open(path.Join("/proc/sys", key), flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return fn(fd)
	})
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("sysctl %s: the namespace has no such key (misspelt, of another kernel, or the host's alone): %w", key, err)
	}
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	return nil
}
