package fstests

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// leakTime is how long (scaled) something may take to go by itself.
const leakTime = 5 * time.Second

// A leakState is what of the machine a mount must leave as it was.
type leakState struct {
	links []string
	named []string // network namespaces
}

func leakStateNow(t testing.TB) leakState {
	t.Helper()
	var s leakState
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		s.links = append(s.links, l.Name)
	}
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		s.named = append(s.named, e.Name())
	}
	return s
}

// hashedLink matches the host's end of an uplink that was not named for its
// stack.
var hashedLink = regexp.MustCompile(`^sf-[0-9a-f]{12}$`)

// mayBeOurs tells whether a link on the host may be the end of an uplink of
// this mount: those of other mounts come and go as they like.
func (m *M) mayBeOurs(link string) bool {
	if slices.Contains(m.before.links, link) {
		return false
	}
	stack, ok := strings.CutPrefix(link, "sf-")
	return ok && m.stacks[stack] || hashedLink.MatchString(link)
}

// checkLeaks fails the test for what is left after the daemon has ended.
// Things of other programs on the machine come and go meanwhile, so only
// what stackfs may have made counts.
func (m *M) checkLeaks() {
	t := m.t
	if left := mountsBelow(t, m.Dir); len(left) > 0 {
		t.Errorf("mounts left: %v", left)
	}
	if m.runDir != "" {
		if !waitFor(leakTime, func() bool { return !exists(m.runDir) }) {
			t.Errorf("left: %s", strings.Join(listBelow(m.runDir), " "))
		}
		if left := mountsBelow(t, m.runDir); len(left) > 0 {
			t.Errorf("namespaces left: %v", left)
		}
	}
	var left []string
	if !waitFor(leakTime, func() bool {
		left = slices.DeleteFunc(leakStateNow(t).links, func(name string) bool {
			return !m.mayBeOurs(name)
		})
		return len(left) == 0
	}) {
		t.Errorf("links left: %v", left)
	}
	for _, name := range m.before.named {
		if strings.HasPrefix(name, ownPrefix()) && !exists("/run/netns/"+name) {
			t.Errorf("the namespace %s is gone, which stackfs did not make", name)
		}
	}
	if !waitFor(leakTime, func() bool { left = m.processes(); return len(left) == 0 }) {
		t.Errorf("processes left: %v", left)
	}
}

// processes lists those that have to do with the mount: their arguments
// name its directory or that below /run.
func (m *M) processes() (list []string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		argv := cmdline(pid)
		if len(argv) == 0 || !strings.HasPrefix(filepath.Base(argv[0]), "stackfs") {
			continue
		}
		if slices.Contains(argv, m.Dir) || m.runDir != "" && slices.Contains(argv, m.runDir) {
			list = append(list, fmt.Sprintf("%d %q", pid, argv))
		}
	}
	return list
}

// checkFDs fails the test unless the daemon's descriptors are again what
// they were when it got ready.
func (m *M) checkFDs() {
	t := m.t
	var now map[string]int
	pid, before := m.PID(), m.daemon.fds
	fdAllowance := func(kind string) int {
		switch {
		// Each stack that was added has its namespace open, and with the
		// first the daemon opens its own.
		case kind == "net:[N]":
			return 1 + max(0, m.stackCount()-m.daemon.stacks)
		// The guardian is started when it is needed. There is a socket to
		// it and one to each of its threads.
		case kind == "anon_inode:[pidfd]" && m.findGuardian() != 0:
			return 1
		case kind == "socket:[N]" && m.findGuardian() != 0:
			return 1 + len(listTasks(m.findGuardian()))
		}
		return fdAllowance(kind)
	}
	if waitFor(leakTime, func() bool {
		now = fdKinds(pid)
		for kind, n := range now {
			if n > before[kind]+fdAllowance(kind) {
				return false
			}
		}
		return true
	}) {
		return
	}
	for kind, n := range now {
		if n > before[kind]+fdAllowance(kind) {
			t.Errorf("the daemon has %d descriptors of the kind %s open, %d at first", n, kind, before[kind])
		}
	}
}

// fdAllowance is how many more descriptors of a kind are no leak: the
// thread of a stack starts with the first channel and stays, go-fuse keeps
// pipes for splice(2), the BPF program of snapshots is loaded while the
// daemon serves already, and the file of the seals that are used up is open
// from the first of them on.
func fdAllowance(kind string) int {
	if filepath.Base(kind) == "nonces" {
		return 1
	}
	switch kind {
	case "anon_inode:[eventpoll]", "anon_inode:[eventfd]":
		return 16
	case "pipe:[N]":
		return 32
	case "anon_inode:bpf-map":
		return 8
	case "anon_inode:bpf-prog", "anon_inode:bpf_link", "anon_inode:btf", "/dev/null":
		return 1
	}
	return 0
}

// stackCount returns how many stacks there are, and remembers their names.
func (m *M) stackCount() int {
	m.t.Helper()
	var types []string
	if err := Within(m.t, answerTime, "list "+m.Dir, func() (err error) {
		types, err = filepath.Glob(m.Path("*", "type"))
		return err
	}); err != nil {
		m.t.Error(err)
	}
	for _, file := range types {
		m.stacks[filepath.Base(filepath.Dir(file))] = true
	}
	return len(types)
}

var number = regexp.MustCompile(`\d+`)

// fdKinds counts the open descriptors of a process by what they are.
func fdKinds(pid int) map[string]int {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	kinds := map[string]int{}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			kinds[number.ReplaceAllString(target, "N")]++
		}
	}
	return kinds
}

// findGuardian returns the process that freezes the owners of connections, 0
// if none was needed yet.
func (m *M) findGuardian() int {
	for _, child := range children(m.PID()) {
		if argv := cmdline(child); len(argv) > 0 && argv[0] == "stackfs-guardian" {
			return child
		}
	}
	return 0
}

// listTasks returns the directories of a process' threads.
func listTasks(pid int) []string {
	dirs, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	return dirs
}

// children lists the child processes of pid.
func children(pid int) (list []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range files {
		b, _ := os.ReadFile(name)
		for _, word := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(word); err == nil {
				list = append(list, n)
			}
		}
	}
	return list
}

func cmdline(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// mountsBelow lists the mounts at dir and below it.
func mountsBelow(t testing.TB, dir string) (list []string) {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 5 {
			continue
		}
		if at := fields[4]; at == dir || strings.HasPrefix(at, dir+"/") {
			list = append(list, at)
		}
	}
	return list
}

func listBelow(dir string) (list []string) {
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			list = append(list, path)
		}
		return nil
	})
	return list
}

// goroutines asks the daemon for its number of goroutines, which it logs.
func (m *M) goroutines() int {
	m.t.Helper()
	const mark = "msg=self goroutines="
	seen := strings.Count(m.Log(), mark)
	m.Signal(syscall.SIGUSR1)
	WaitFor(m.t, 10*time.Second, "the daemon counts its goroutines", func() bool {
		return strings.Count(m.Log(), mark) > seen
	})
	log := m.Log()
	var n int
	if _, err := fmt.Sscanf(log[strings.LastIndex(log, mark)+len(mark):], "%d", &n); err != nil {
		m.t.Fatalf("the daemon's count: %v", err)
	}
	return n
}
