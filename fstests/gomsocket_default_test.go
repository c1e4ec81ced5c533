package fstests

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/msocket"
)

func TestGoDefaults(t *testing.T) {
	m, _, _ := pairMount(t, Config{Stacks: []string{"own"}})
	t.Setenv("STACKFS_DEFAULT", "") // restored by the end of the test
	cookie := func(domain int) string {
		t.Helper()
		f, err := msocket.SocketDefault(domain, unix.SOCK_DGRAM, 0)
		if err != nil {
			t.Fatalf("SocketDefault(%d): %v", domain, err)
		}
		defer f.Close()
		return netnsCookieOf(t, f)
	}
	check := func(what string, domain int, stack string) {
		t.Helper()
		if got, want := cookie(domain), m.Status(stack)["netns_cookie"]; got != want {
			t.Errorf("%s: family %d is in namespace %s, want that of %s, %s", what, domain, got, stack, want)
		}
	}
	set := func(stack string, domain int) {
		t.Helper()
		if err := msocket.SetDefault(m.Path(stack), domain); err != nil {
			t.Fatalf("SetDefault(%s, %d): %v", stack, domain, err)
		}
	}
	t.Cleanup(func() {
		if err := msocket.ClearDefault(0); err != nil {
			t.Error(err)
		}
	})
	check("at first", unix.AF_INET, "kernel")
	set("a", unix.AF_INET)
	check("one family", unix.AF_INET, "a")
	check("one family", unix.AF_INET6, "kernel")
	set("own", 0)
	check("all", unix.AF_INET, "own")
	check("all", unix.AF_INET6, "own")
	check("all", unix.AF_NETLINK, "own")
	if want := "2=" + m.Path("own") + ",10=" + m.Path("own") + ",16=" + m.Path("own") + ",17=" + m.Path("own"); os.Getenv("STACKFS_DEFAULT") != want {
		t.Errorf("STACKFS_DEFAULT: got %q, want %q", os.Getenv("STACKFS_DEFAULT"), want)
	}
	check("UNIX sockets", unix.AF_UNIX, "kernel")
	if err := msocket.ClearDefault(unix.AF_INET6); err != nil {
		t.Fatal(err)
	}
	check("one taken back", unix.AF_INET6, "kernel")
	check("one taken back", unix.AF_INET, "own")
	if err := msocket.SetDefault(m.Path("own"), unix.AF_VSOCK); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Errorf("SetDefault of a family that the stack lacks: got %v, want EAFNOSUPPORT", err)
	}
	if err := msocket.SetDefault(m.Path("own"), unix.AF_UNIX); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Errorf("SetDefault(AF_UNIX): got %v, want EAFNOSUPPORT", err)
	}
	set("null", 0)
	if f, err := msocket.SocketDefault(unix.AF_INET, unix.SOCK_STREAM, 0); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Errorf("null as default: got %v, %v, want EAFNOSUPPORT", f, err)
	}
	// The stack goes, the default stays: never another one.
	set("own", 0)
	check("again", unix.AF_INET, "own")
	m.MustCtl("remove own force")
	for _, domain := range []int{unix.AF_INET, unix.AF_NETLINK} {
		if f, err := msocket.SocketDefault(domain, unix.SOCK_DGRAM, 0); !errors.Is(err, unix.ENODEV) {
			t.Errorf("the stack of the default is gone: got %v, %v, want ENODEV", f, err)
		}
	}
	if err := msocket.ClearDefault(0); err != nil {
		t.Fatal(err)
	}
	check("all taken back", unix.AF_INET, "kernel")
	if v, ok := os.LookupEnv("STACKFS_DEFAULT"); ok {
		t.Errorf("STACKFS_DEFAULT is still %q", v)
	}
}
