package nic

import (
	"fmt"
	"strconv"
	"strings"
)

// maxCPU bounds the numbers in lists.
const maxCPU = 1 << 16

// ParseList reads a list of CPUs like "0-3,8".
func ParseList(text string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(to)
		}
		if err != nil || a < 0 || b < a || b >= maxCPU {
			return nil, fmt.Errorf("%q is no list of CPUs (like 0-3,8)", text)
		}
		for ; a <= b; a++ {
			list = append(list, a)
		}
	}
	return list, nil
}

// mask writes CPUs as the kernel has sets of them: groups of 32 bits in
// hexadecimal with commas, the lowest last.
func mask(cpus []int) string {
	groups := []uint32{0}
	for _, cpu := range cpus {
		for cpu/32 >= len(groups) {
			groups = append(groups, 0)
		}
		groups[cpu/32] |= 1 << (cpu % 32)
	}
	var b strings.Builder
	for i := len(groups) - 1; i >= 0; i-- {
		if i == len(groups)-1 {
			fmt.Fprintf(&b, "%x", groups[i])
		} else {
			fmt.Fprintf(&b, ",%08x", groups[i])
		}
	}
	return b.String()
}

// sameMask tells whether two sets are the same, whatever zeros they have in
// front.
func sameMask(a, b string) bool {
	trim := func(s string) string { return strings.TrimLeft(strings.ReplaceAll(s, ",", ""), "0") }
	return trim(a) == trim(b)
}
