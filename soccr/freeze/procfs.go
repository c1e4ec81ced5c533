package freeze

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A stat is what we need of /proc/PID/task/TID/stat.
type stat struct {
	command string
	state   byte
	parent  int
	kernel  bool // a thread of the kernel
	cpu     int  // where it ran last
}

// ended tells whether the thread is a zombie.
func (s stat) ended() bool { return s.state == 'Z' || s.state == 'X' }

func taskFile(pid, tid int, name string) string {
	return fmt.Sprintf("/proc/%d/task/%d/%s", pid, tid, name)
}

// readStat returns ErrGone if there is no such thread.
func readStat(pid, tid int) (stat, error) {
	b, err := os.ReadFile(taskFile(pid, tid, "stat"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return stat{}, fmt.Errorf("thread %d of process %d: %w", tid, pid, ErrGone)
	}
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// pfKthread is PF_KTHREAD of <linux/sched.h>, a bit of the flags in stat.
const pfKthread = 0x00200000

// parseStat reads the fields of proc_pid_stat(5). The name of the command may
// have blanks and parentheses.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("stat: line %q", b)
	}
	fields := strings.Fields(string(b[end+1:])) // from field 3, the state
	const parent, flags, processor = 4 - 3, 9 - 3, 39 - 3
	if len(fields) <= processor {
		return stat{}, fmt.Errorf("stat: line %q", b)
	}
	s := stat{command: string(b[open+1 : end]), state: fields[0][0]}
	bits, err := strconv.ParseUint(fields[flags], 10, 64)
	s.kernel = bits&pfKthread != 0
	if err == nil {
		s.parent, err = strconv.Atoi(fields[parent])
	}
	if err == nil {
		s.cpu, err = strconv.Atoi(fields[processor])
	}
	if err != nil {
		return stat{}, fmt.Errorf("stat: line %q: %w", b, err)
	}
	return s, nil
}

// commandOf returns the name of a process for a message.
func commandOf(pid int) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}

// readThreads lists the threads of a process. Returns ErrGone if there is no
// such process.
func readThreads(pid int) ([]int, error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	var names []string
	if err == nil {
		names, err = dir.Readdirnames(-1)
		dir.Close()
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("threads of process %d: %w", pid, err)
	}
	tids := make([]int, 0, len(names))
	for _, name := range names {
		if tid, err := strconv.Atoi(name); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// tracerOf returns the process that traces a thread, 0 if none does.
func tracerOf(pid, tid int) int {
	by := statusNumber(taskFile(pid, tid, "status"), "TracerPid:")
	// That is the number of a thread.
	if group := statusNumber(fmt.Sprintf("/proc/%d/status", by), "Tgid:"); group != 0 {
		return group
	}
	return by
}

// statusNumber returns the value of a line of proc_pid_status(5), 0 if there
// is none.
func statusNumber(path, key string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if value, ok := bytes.CutPrefix(line, []byte(key)); ok {
			n, _ := strconv.Atoi(string(bytes.TrimSpace(value)))
			return n
		}
	}
	return 0
}

// sleepsIn returns the kernel function in which a thread sleeps, if the
// kernel tells.
func sleepsIn(pid, tid int) string {
	b, err := os.ReadFile(taskFile(pid, tid, "wchan"))
	if err != nil || string(b) == "0" {
		return ""
	}
	return string(b)
}
