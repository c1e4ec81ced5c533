package keeper

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// FSType is the file system type of our mounts in mountinfo.
const FSType = "fuse.stackfs"

// A Mount is one line of /proc/self/mountinfo.
type Mount struct {
	ID     int
	Root   string // of the mount within its file system
	Dir    string
	Type   string
	Source string
}

// Mounts lists the mounts of the calling process' namespace, in the order
// in which they were made.
func Mounts() ([]Mount, error) { return ReadMounts("/proc/self/mountinfo") }

// ReadMounts lists the mounts in a file like /proc/PID/mountinfo. Lines that
// are not as they should be are left out.
func ReadMounts(path string) ([]Mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []Mount
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if m, err := parseMount(sc.Text()); err == nil {
			list = append(list, m)
		}
	}
	return list, sc.Err()
}

// parseMount reads a line as proc_pid_mountinfo(5) has it:
// "36 35 98:0 /mnt1 /mnt2 rw shared:1 - ext3 /dev/root rw".
func parseMount(line string) (Mount, error) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 6 || len(r) < 2 {
		return Mount{}, fmt.Errorf("mountinfo: line %q", line)
	}
	id, err := strconv.Atoi(l[0])
	if err != nil {
		return Mount{}, fmt.Errorf("mountinfo: line %q: %w", line, err)
	}
	return Mount{ID: id, Root: unescape(l[3]), Dir: unescape(l[4]), Type: r[0], Source: unescape(r[1])}, nil
}

// unescape undoes the octal escapes (\040) of mountinfo.
func unescape(s string) string {
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

// TopMount returns the mount that is seen at dir. Returns os.ErrNotExist if
// nothing is mounted right there.
func TopMount(dir string) (Mount, error) {
	list, err := Mounts()
	if err != nil {
		return Mount{}, err
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Dir == dir {
			return list[i], nil
		}
	}
	return Mount{}, fmt.Errorf("nothing is mounted at %s: %w", dir, os.ErrNotExist)
}
