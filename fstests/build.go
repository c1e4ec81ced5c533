package fstests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TempDir returns a directory that, unlike that of t.TempDir, other users
// can enter. It is removed with the test, unless something is mounted there.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stackfs-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := mountsBelow(t, dir); len(left) > 0 {
			t.Errorf("not removed, something is mounted there: %v", left)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Binary returns the stackfs program: STACKFS_BIN, or what this tree makes.
func Binary(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("STACKFS_BIN"); bin != "" {
		return bin
	}
	bin, err := builtBinary()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// builtBinary builds the program, once in a test run. Several runs at a time
// each replace it as a whole.
var builtBinary = sync.OnceValues(func() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "build", "stackfs-under-test")
	fresh := fmt.Sprintf("%s.%d", bin, os.Getpid())
	if err := goBuild(filepath.Join(root, "cmd", "stackfs"), fresh); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, bin); err != nil {
		return "", err
	}
	return bin, nil
})

func goBuild(dir, bin string) error {
	cmd := exec.Command("go", "build", "-o", bin, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", dir, err, out)
	}
	return nil
}

// moduleRoot finds the directory of go.mod above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory: set STACKFS_BIN")
		}
		dir = up
	}
}

// GoBuild builds the Go program in dir and returns its path.
func GoBuild(t testing.TB, dir string) string {
	t.Helper()
	bin := filepath.Join(TempDir(t), filepath.Base(dir))
	if err := goBuild(dir, bin); err != nil {
		t.Fatal(err)
	}
	return bin
}

// Compile compiles a C file with flags and returns the program's path.
func Compile(t testing.TB, file string, flags ...string) string {
	t.Helper()
	bin := filepath.Join(TempDir(t), strings.TrimSuffix(filepath.Base(file), ".c"))
	args := append([]string{"-std=gnu11", "-O1", "-Wall", "-Wextra", "-o", bin, file}, flags...)
	Run(t, time.Minute, "cc", args...)
	return bin
}
