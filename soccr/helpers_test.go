package soccr

import (
	"bytes"
	"log/slog"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// skip skips a test that lacks a need, which fails it with STACKFS_STRICT=1.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("STACKFS_STRICT") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root: repair mode, namespaces")
	}
}

// mustSocket returns a new TCP socket, closed with the test.
func mustSocket(t testing.TB, family int) int {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// captureLog returns what this package logs until the test ends.
func captureLog(t testing.TB) func() string {
	var b bytes.Buffer
	SetLog(slog.New(slog.NewTextHandler(&b, nil)))
	t.Cleanup(func() { SetLog(nil) })
	return b.String
}
