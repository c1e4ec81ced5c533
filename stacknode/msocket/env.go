package msocket

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The defaults as text, as libmsocket has them:
//
//	STACKFS_DEFAULT=FAMILY=PATH[,FAMILY=PATH]...
//
// FAMILY is the decimal number of an address family; PATH is absolute, with
// '%', ',', control characters and space as %XX.
const envDefault = "STACKFS_DEFAULT"

// envShim switches the defaults off with the value "off".
const envShim = "STACKFS_SHIM"

// families bounds the numbers of address families: a bit each of a uint64.
const families = 64

// parseDefaults reads the value of STACKFS_DEFAULT.
func parseDefaults(value string) (map[int]string, error) {
	paths := map[int]string{}
	for value != "" {
		var entry string
		entry, value, _ = strings.Cut(value, ",")
		number, escaped, ok := strings.Cut(entry, "=")
		family, err := strconv.ParseUint(number, 10, 16)
		if !ok || err != nil || family >= families {
			return nil, fmt.Errorf("%s: entry %q: %w", envDefault, entry, unix.EINVAL)
		}
		path, err := unescapePath(escaped)
		if err != nil {
			return nil, fmt.Errorf("%s: entry %q: %w", envDefault, entry, err)
		}
		if family != unix.AF_UNSPEC && family != unix.AF_UNIX {
			paths[int(family)] = path
		}
	}
	return paths, nil
}

func unescapePath(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", unix.EINVAL
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", unix.EINVAL
			}
			c = byte(n)
			i += 2
		}
		if c == 0 {
			return "", unix.EINVAL
		}
		b.WriteByte(c)
	}
	if path := b.String(); strings.HasPrefix(path, "/") && len(path) < unix.PathMax {
		return path, nil
	}
	return "", unix.EINVAL
}

// renderDefaults is the reverse of parseDefaults.
func renderDefaults(paths map[int]string) string {
	var b strings.Builder
	for _, family := range slices.Sorted(maps.Keys(paths)) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d=", family)
		for _, c := range []byte(paths[family]) {
			if c == '%' || c == ',' || c <= ' ' || c == 0x7f {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
	}
	return b.String()
}
