package freeze

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/fstests"
)

// waits returns the program of testdata/waits.c.
func waits(t *testing.T, flags ...string) string {
	t.Helper()
	fstests.Require(t, fstests.Root, fstests.Compiler)
	if len(flags) > 0 {
		return fstests.Compile(t, "testdata/waits.c", append(flags, "-pthread")...)
	}
	waitsOnce.Do(func() {
		dir, err := os.MkdirTemp("", "stackfs-freeze-")
		if err != nil {
			t.Fatal(err)
		}
		waitsDir = dir
		bin := filepath.Join(dir, "waits")
		fstests.Run(t, time.Minute, "cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-o", bin, "testdata/waits.c", "-pthread")
		waitsBin = bin
	})
	if waitsBin == "" {
		t.Fatal("testdata/waits.c does not compile")
	}
	return waitsBin
}

var (
	waitsOnce          sync.Once
	waitsBin, waitsDir string
)

// counters is struct counters of testdata/waits.c.
type counters struct {
	turns, eintr, wrong, handled, disorder, threads, ready uint64
}

func load(p *uint64) uint64 { return atomic.LoadUint64(p) }

// A program runs as a child of init: the stops of our own children would be
// reported to whoever waits for them.
type program struct {
	t      *testing.T
	pid    int
	count  *counters
	stdout chan string // all of it, at the end
}

// start runs waits with arguments.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	return startBy(t, nil, waits(t), args...)
}

// startBy runs a program that was built from testdata/waits.c, or one that
// has counters of its own, by way of another one that prefix names.
func startBy(t *testing.T, prefix []string, bin string, args ...string) *program {
	t.Helper()
	file := filepath.Join(t.TempDir(), "counters")
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	p := launch(t, slices.Concat(prefix, []string{bin, file}, args)...)
	p.count = (*counters)(unsafe.Pointer(&m[0]))
	t.Cleanup(func() { _ = unix.Munmap(m) })
	return p
}

// launch runs a program that has no counters.
func launch(t *testing.T, args ...string) *program {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{"-c", `"$@" & echo $! >&3`, "sh"}, args...)...)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = w, os.Stderr, []*os.File{pw}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	pw.Close()
	line, err := bufio.NewReader(pr).ReadString('\n')
	pr.Close()
	p := &program{t: t, stdout: make(chan string, 1)}
	if err == nil {
		p.pid, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b, _ := io.ReadAll(r)
		r.Close()
		p.stdout <- string(b)
	}()
	t.Cleanup(func() {
		_ = unix.Kill(p.pid, unix.SIGKILL)
		p.output(5 * time.Second)
	})
	return p
}

// output returns what the program wrote, when it has ended.
func (p *program) output(limit time.Duration) string {
	p.t.Helper()
	select {
	case s := <-p.stdout:
		p.stdout <- s
		return strings.TrimSpace(s)
	case <-time.After(limit):
		p.t.Fatalf("program %d does not end", p.pid)
		return ""
	}
}

func (p *program) running() bool {
	select {
	case s := <-p.stdout:
		p.stdout <- s
		return false
	default:
		return true
	}
}

// wait waits until the condition holds.
func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func (p *program) waitReady() {
	p.t.Helper()
	wait(p.t, "the program gets ready", func() bool { return load(&p.count.ready) > 0 })
}

// waitAsleep waits until every thread sleeps in a call.
func (p *program) waitAsleep() {
	p.t.Helper()
	p.waitReady()
	wait(p.t, "the program sleeps", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", p.pid))
		st, err2 := readStat(p.pid, p.pid)
		return err == nil && err2 == nil && st.state == 'S' && !strings.HasPrefix(string(b), "running")
	})
}

// states returns the state letters of all threads.
func (p *program) states() string {
	tids, _ := readThreads(p.pid)
	var s []byte
	for _, tid := range tids {
		if st, err := readStat(p.pid, tid); err == nil {
			s = append(s, st.state)
		}
	}
	return string(s)
}

func mustFreeze(t *testing.T, f *Freezer, pid int) *Frozen {
	t.Helper()
	z, err := f.Freeze(context.Background(), pid)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// sigqueue sends a signal with a value.
func sigqueue(t *testing.T, pid int, signal unix.Signal, value int32) {
	t.Helper()
	var info [128]byte // struct siginfo: signo, errno, code, pid, uid, value
	code := int32(-1)  // SI_QUEUE
	binary.LittleEndian.PutUint32(info[0:], uint32(signal))
	binary.LittleEndian.PutUint32(info[8:], uint32(code))
	binary.LittleEndian.PutUint32(info[16:], uint32(os.Getpid()))
	binary.LittleEndian.PutUint32(info[24:], uint32(value))
	_, _, e := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(signal), uintptr(unsafe.Pointer(&info)))
	if e != 0 {
		t.Fatal(os.NewSyscallError("rt_sigqueueinfo", e))
	}
}

// sigrtmin is SIGRTMIN of glibc.
const sigrtmin = unix.Signal(34)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "freeze-and-wait" {
		freezeAndWait(os.Args[2])
	}
	code := m.Run()
	if waitsDir != "" {
		os.RemoveAll(waitsDir)
	}
	os.Exit(code)
}
