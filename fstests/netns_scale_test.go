package fstests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/netns"
	"github.com/stackfs/stackfs/stacknode"
)

// entriesOf counts the entries of a directory in /proc.
func entriesOf(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	mustDo(t, err)
	return len(entries)
}

// At rest a stack costs one descriptor, no thread and no goroutine.
// STACKFS_MANY sets how many there are.
func TestNetnsManyStacksAreCheap(t *testing.T) {
	isolated(t, func(t *testing.T) {
		many := 100
		if n, err := strconv.Atoi(os.Getenv("STACKFS_MANY")); err == nil {
			many = n
		}
		env := netnsEnv(t)
		warm := newNetns(t, env, "warm", stacknode.NetnsSpec{})
		endNetns(t, warm)
		fds, threads := entriesOf(t, "/proc/self/fd"), entriesOf(t, "/proc/self/task")
		start := time.Now()
		var stacks []stacknode.Backend
		for i := range many {
			b, err := netns.New(netnsSpec(fmt.Sprint("s", i), stacknode.NetnsSpec{}), env)
			mustDo(t, err)
			stacks = append(stacks, b)
		}
		made := time.Since(start)
		if got := entriesOf(t, "/proc/self/fd") - fds; got > many {
			t.Errorf("%d stacks hold %d descriptors", many, got)
		}
		// The runtime adds a few of its own.
		if got := entriesOf(t, "/proc/self/task") - threads; got > 8 {
			t.Errorf("%d stacks hold %d threads", many, got)
		}
		start = time.Now()
		for _, b := range stacks {
			wantBusy(t, b, "at rest", "")
		}
		asked := time.Since(start)
		start = time.Now()
		for _, b := range stacks {
			endNetns(t, b)
		}
		t.Logf("each of %d: New %v, Busy %v, Close and Destroy %v", many,
			made/time.Duration(many), asked/time.Duration(many), time.Since(start)/time.Duration(many))
		if got := entriesOf(t, "/proc/self/fd") - fds; got > 0 {
			t.Errorf("%d descriptors left", got)
		}
		leavesNothing(t)
	})
}

// A mount namespace that is made while a namespace is pinned gets a copy of
// the pin, which must not keep the namespace alive.
func TestNetnsEndsInSpiteOfCopiedMounts(t *testing.T) {
	isolated(t, func(t *testing.T) {
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{Uplink: &stacknode.Uplink{Type: "veth"}})
		other := exec.Command("unshare", "-m", "sleep", "60")
		mustDo(t, other.Start())
		t.Cleanup(func() { other.Process.Kill(); other.Wait() })
		mounts := filepath.Join("/proc", strconv.Itoa(other.Process.Pid), "root", "run/stackfs/test/ns/own")
		id, _ := b.(stacknode.NetNamespace).NetNS()
		eventually(t, 5*time.Second, "unshare -m", func() bool {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", other.Process.Pid))
			return string(comm) == "sleep\n"
		})
		var st unix.Stat_t
		mustDo(t, unix.Stat(mounts, &st))
		if st.Ino != id.Ino {
			t.Fatalf("the pin was not copied: inode %d, want %d", st.Ino, id.Ino)
		}
		endNetns(t, b)
		if err := unix.Stat(mounts, &st); err != unix.ENOENT {
			t.Errorf("the copy is still there: %v", err)
		}
		leavesNothing(t)
	})
}

// A pin does not appear in other mount namespaces, although /run is shared
// with them.
func TestNetnsPinsDoNotPropagate(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustDo(t, unix.Mount("", "/run", "", unix.MS_SHARED, ""))
		other := exec.Command("unshare", "-m", "--propagation", "unchanged", "sleep", "60")
		mustDo(t, other.Start())
		t.Cleanup(func() { other.Process.Kill(); other.Wait() })
		eventually(t, 5*time.Second, "unshare -m", func() bool {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", other.Process.Pid))
			return string(comm) == "sleep\n"
		})
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{})
		id, _ := b.(stacknode.NetNamespace).NetNS()
		var st unix.Stat_t
		mustDo(t, unix.Stat(filepath.Join("/proc", strconv.Itoa(other.Process.Pid), "root", "run/stackfs/test/ns/own"), &st))
		if st.Ino == id.Ino {
			t.Error("the pin has propagated")
		}
		endNetns(t, b)
		leavesNothing(t)
	})
}

func TestNetnsManyNamedNamespacesComeAndGo(t *testing.T) {
	isolated(t, func(t *testing.T) {
		many := 50
		if n, err := strconv.Atoi(os.Getenv("STACKFS_MANY")); err == nil {
			many = n
		}
		reg := discovering(t)
		var add, del strings.Builder
		for i := range many {
			fmt.Fprintf(&add, "netns add n%d\n", i)
			fmt.Fprintf(&del, "netns del n%d\n", i)
		}
		mustDo(t, os.WriteFile("/run/add", []byte(add.String()), 0o600))
		mustDo(t, os.WriteFile("/run/del", []byte(del.String()), 0o600))
		mustCommand(t, "ip", "-batch", "/run/add")
		start := time.Now()
		eventually(t, 5*time.Second, "all appear", func() bool { return len(reg.List()) == many })
		came := time.Since(start)
		mustCommand(t, "ip", "-batch", "/run/del")
		start = time.Now()
		eventually(t, time.Second, "all vanish", func() bool { return len(reg.List()) == 0 })
		t.Logf("%d namespaces: the last stack %v after the last add, gone %v after the last del", many, came, time.Since(start))
	})
}
