package fstests

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nsPrefix begins the names of namespaces that tests make; the process
// follows, since several may test at a time.
const nsPrefix = "sft-"

func ownPrefix() string { return fmt.Sprintf("%s%d-", nsPrefix, os.Getpid()) }

// An NS is a named network namespace of a test.
type NS struct {
	Name     string
	IP4, IP6 netip.Addr // of the link eth0; only set by Pair

	t testing.TB
}

// NetNS makes a network namespace for the test. Its lo is up and has the
// addresses ("192.0.2.1/24").
func NetNS(t testing.TB, addresses ...string) *NS {
	t.Helper()
	n := &NS{Name: fmt.Sprintf("%s%08x", ownPrefix(), rand.Uint32()), t: t}
	Run(t, 10*time.Second, "ip", "netns", "add", n.Name)
	t.Cleanup(func() { Run(t, 10*time.Second, "ip", "netns", "del", n.Name) })
	n.IP("link", "set", "lo", "up")
	for _, a := range addresses {
		n.IP("addr", "add", a, "dev", "lo", "nodad")
	}
	return n
}

// Path returns a file that is the namespace.
func (n *NS) Path() string { return "/run/netns/" + n.Name }

// IP runs ip(8) on the namespace.
func (n *NS) IP(args ...string) string {
	n.t.Helper()
	return Run(n.t, 10*time.Second, "ip", append([]string{"-n", n.Name}, args...)...)
}

// Command prepares a program inside the namespace.
func (n *NS) Command(timeout time.Duration, name string, args ...string) *exec.Cmd {
	n.t.Helper()
	return Command(n.t, timeout, "nsenter", append([]string{"--net=" + n.Path(), "--", name}, args...)...)
}

// Pair makes two namespaces that a cable connects, with addresses of both
// families that can be used at once.
func Pair(t testing.TB) (a, b *NS) {
	t.Helper()
	a, b = NetNS(t), NetNS(t)
	Run(t, 10*time.Second, "ip", "link", "add", "eth0", "netns", a.Name, "type", "veth", "peer", "name", "eth0", "netns", b.Name)
	for i, n := range []*NS{a, b} {
		n.IP4 = netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i+1))
		n.IP6 = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1))
		n.IP("addr", "add", n.IP4.String()+"/24", "dev", "eth0")
		// nodad: the address is no guest on probation for a second.
		n.IP("addr", "add", n.IP6.String()+"/64", "dev", "eth0", "nodad")
		n.IP("link", "set", "eth0", "up")
	}
	return a, b
}

// inNamespace runs fn, which starts no goroutine, on a thread inside n. The
// thread ends with it.
func inNamespace(t testing.TB, n *NS, fn func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		f, err := os.Open(n.Path())
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
