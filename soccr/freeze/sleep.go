package freeze

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A sleep is what was seen of a thread that slept in a call with a timeout,
// before it was interrupted. The zero sleep: it did not, or nothing is known.
type sleep struct {
	since    time.Time // no later than it fell asleep, within a tick of the kernel's clock
	switches uint64    // how often it had given up its CPU, this time included
}

// observe looks at a thread that is about to be interrupted.
func observe(pid, tid int, c clocks) sleep {
	if !waitsWithTimeout(pid, tid) {
		return sleep{}
	}
	st, err := readStat(pid, tid)
	if err != nil || st.state != 'S' {
		return sleep{}
	}
	start, switches, ok := readSched(taskFile(pid, tid, "sched"))
	if !ok {
		return sleep{}
	}
	zero, ok := c.zero(st.cpu)
	if !ok {
		return sleep{}
	}
	return sleep{since: zero.Add(start), switches: switches}
}

// same tells whether the stopped thread was woken by nothing but the
// interrupt: since it was observed it gave up the CPU once, to stop.
func (s sleep) same(pid, tid int) bool {
	if s.since.IsZero() {
		return false
	}
	_, switches, ok := readSched(taskFile(pid, tid, "sched"))
	return ok && switches == s.switches+1
}

// clocks are the clocks by which the kernel counts the time of its threads:
// each CPU has one, which stands still while the CPU is not ours (steal time)
// or serves an interrupt. The value is the time at which that of a CPU would
// have been 0. They drift; a map is good for some milliseconds.
type clocks map[int]time.Time

// zero measures a clock by running on its CPU for a moment. The calling
// goroutine is locked to its thread.
func (c clocks) zero(cpu int) (time.Time, bool) {
	if z, ok := c[cpu]; ok {
		return z, true
	}
	var before, only unix.CPUSet
	if unix.SchedGetaffinity(0, &before) != nil {
		return time.Time{}, false
	}
	only.Set(cpu)
	if unix.SchedSetaffinity(0, &only) != nil { // not a CPU of our cpuset
		return time.Time{}, false
	}
	defer unix.SchedSetaffinity(0, &before)
	yield(0) // so that the kernel writes the time down
	now := time.Now()
	ran, _, ok := readSched("/proc/thread-self/sched")
	if !ok {
		return time.Time{}, false
	}
	c[cpu] = now.Add(-ran)
	return c[cpu], true
}

// readSched reads two lines of a file sched: the time, by the clock of its
// CPU, at which a thread that sleeps fell asleep or one that runs was last
// looked at, and how often it gave up the CPU. ok is false where the kernel
// has no such file (no CONFIG_SCHED_DEBUG).
func readSched(path string) (at time.Duration, switches uint64, ok bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, false
	}
	var seen int
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "se.exec_start": // milliseconds
			ms, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, 0, false
			}
			at = time.Duration(ms * float64(time.Millisecond))
			seen++
		case "nr_voluntary_switches":
			if switches, err = strconv.ParseUint(value, 10, 64); err != nil {
				return 0, 0, false
			}
			seen++
		}
	}
	return at, switches, seen == 2
}
