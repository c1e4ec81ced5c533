package fstests

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A Need is something that a test cannot do without. It returns what is
// missing, or an errOldKernel if the kernel is not one that has it.
type Need func(t testing.TB) error

// errBroken is a feature that a kernel should have and has not: never a
// reason to skip.
var errBroken = errors.New("should be there")

// errOldKernel is a feature that the kernel is too old for.
var errOldKernel = errors.New("is newer than the kernel")

// Require skips the test if a need is not met. With STACKFS_STRICT=1, or if
// the kernel should have what it lacks, the test fails. With
// STACKFS_OLD_KERNEL=1 what the kernel is too old for is skipped in any case.
func Require(t testing.TB, needs ...Need) {
	t.Helper()
	for _, need := range needs {
		err := need(t)
		switch {
		case err == nil:
		case errors.Is(err, errOldKernel) && os.Getenv("STACKFS_OLD_KERNEL") == "1":
			t.Skipf("needs %v", err)
		case os.Getenv("STACKFS_STRICT") == "1", errors.Is(err, errBroken):
			t.Fatalf("needs %v", err)
		default:
			t.Skipf("needs %v", err)
		}
	}
}

// Root is met by uid 0.
func Root(testing.TB) error {
	if os.Geteuid() != 0 {
		return errors.New("root")
	}
	return nil
}

// FUSE is met where /dev/fuse opens and file systems may be mounted.
func FUSE(t testing.TB) error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("FUSE: %w", err)
	}
	f.Close()
	return capability("CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN)
}

// NetAdmin is met where network namespaces and links may be made.
func NetAdmin(t testing.TB) error {
	if err := capability("CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN); err != nil {
		return err
	}
	if err := capability("CAP_NET_ADMIN", unix.CAP_NET_ADMIN); err != nil {
		return err
	}
	return Program("ip")(t)
}

func capability(name string, bit uint) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	sc := bufio.NewScanner(bytes.NewReader(status))
	for sc.Scan() {
		value, ok := strings.CutPrefix(sc.Text(), "CapEff:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return err
		}
		if set&(1<<bit) != 0 {
			return nil
		}
	}
	return errors.New(name)
}

// Program is met if name is in the search path.
func Program(name string) Need {
	return func(testing.TB) error {
		_, err := exec.LookPath(name)
		return err
	}
}

// Compiler is met by a C compiler.
func Compiler(t testing.TB) error { return compiler(t) }

// Compiler32 is met by a C compiler that makes 32-bit x86 programs.
func Compiler32(t testing.TB) error { return compiler(t, "-m32") }

func compiler(t testing.TB, flags ...string) error {
	args := append([]string{"-x", "c", "-", "-o", filepath.Join(t.TempDir(), "empty")}, flags...)
	cmd := exec.Command("cc", args...)
	cmd.Stdin = strings.NewReader("#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("a C compiler %s: %w: %s", strings.Join(flags, " "), err, out)
	}
	return nil
}

// featureProbes tell whether the kernel has a feature. One without a probe
// is taken on trust.
var featureProbes = map[string]func() bool{
	"pidfd_open": func() bool {
		fd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err == nil {
			unix.Close(fd)
		}
		return err != unix.ENOSYS
	},
	"pidfd_getfd": func() bool {
		_, err := unix.PidfdGetfd(-1, 0, 0)
		return err != unix.ENOSYS
	},
	"SO_NETNS_COOKIE": func() bool {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
		_, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err == nil
	},
}

// Kernel is met by a kernel of at least that version ("5.6"). If it then
// lacks the feature for which it is asked for, the test fails: such a skip
// would hide that something is turned off.
func Kernel(since, feature string) Need {
	return func(testing.TB) error {
		major, minor, err := kernelVersion()
		if err != nil {
			return err
		}
		var wantMajor, wantMinor int
		if _, err := fmt.Sscanf(since, "%d.%d", &wantMajor, &wantMinor); err != nil {
			return fmt.Errorf("a version in %q: %w", since, errBroken)
		}
		if major < wantMajor || major == wantMajor && minor < wantMinor {
			return fmt.Errorf("%s of Linux %s, which %w (%d.%d)", feature, since, errOldKernel, major, minor)
		}
		if probe := featureProbes[feature]; probe != nil && !probe() {
			return fmt.Errorf("%s, which Linux %d.%d %w", feature, major, minor, errBroken)
		}
		return nil
	}
}

func kernelVersion() (major, minor int, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return major, minor, err
}
