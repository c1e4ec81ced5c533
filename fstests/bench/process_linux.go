package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// findProcess returns the process whose arguments, at least two, match.
func findProcess(match func(argv []string) bool) (pid int, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		argv := strings.Split(string(text), "\x00")
		if err == nil && len(argv) > 1 && match(argv) {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, fmt.Errorf("the daemon is not there: %w", os.ErrNotExist)
}

// pinAll keeps every thread of a process on one CPU; a negative one lets
// them run anywhere. Threads that it makes later inherit this.
func pinAll(pid, cpu int) error {
	var set unix.CPUSet
	for i := range runtime.NumCPU() {
		if cpu < 0 || cpu == i {
			set.Set(i)
		}
	}
	dir := fmt.Sprintf("/proc/%d/task", pid)
	// Twice: a thread may be starting.
	for range 2 {
		tasks, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
				return os.NewSyscallError("sched_setaffinity", err)
			}
		}
	}
	return nil
}

// cpuTicks returns the CPU time that a process has used, with all threads
// that it ever had: utime and stime of proc_pid_stat(5).
func cpuTicks(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything; state is the field after.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3
	if len(fields) <= stime {
		return 0, fmt.Errorf("%d: odd stat %q", pid, text)
	}
	u, err := strconv.ParseFloat(fields[utime], 64)
	if err != nil {
		return 0, err
	}
	s, err := strconv.ParseFloat(fields[stime], 64)
	return u + s, err
}

// rssKiB returns VmRSS of proc_pid_status(5).
func rssKiB(pid int) (float64, error) { return statusKiB(pid, "VmRSS") }

// peakKiB returns the most that VmRSS has been since resetPeak.
func peakKiB(pid int) (float64, error) { return statusKiB(pid, "VmHWM") }

// resetPeak forgets the peak of a process; see proc_pid_clear_refs(5).
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

func statusKiB(pid int, field string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		}
	}
	return 0, fmt.Errorf("%d: no %s", pid, field)
}
