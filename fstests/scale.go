package fstests

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// scale returns STACKFS_SCALE, 1 if that is not set or makes no sense.
func scale() float64 {
	f, err := strconv.ParseFloat(os.Getenv("STACKFS_SCALE"), 64)
	if err != nil || f <= 0 {
		return 1
	}
	return f
}

// SlowBy returns how many times slower than usual the machine is, at least 1.
func SlowBy() float64 { return max(1, scale()) }

// Scale returns how often something is to be repeated where n times is
// usual: less on a slow machine, at least once.
func Scale(n int) int { return max(1, int(float64(n)/scale())) }

// ScaleTime returns how long to wait where d is usual: longer on a slow
// machine.
func ScaleTime(d time.Duration) time.Duration {
	return time.Duration(float64(d) * SlowBy())
}

// WaitFor looks every few milliseconds until ok, for up to limit (scaled).
// what says in the failure what did not happen.
func WaitFor(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	if !waitFor(limit, ok) {
		t.Fatalf("not within %v: %s", ScaleTime(limit), what)
	}
}

func waitFor(limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(ScaleTime(limit)); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// Within runs fn, which may hang on a file system, for up to limit (scaled).
// What it does after that nobody hears of.
func Within(t testing.TB, limit time.Duration, what string, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(ScaleTime(limit)):
		t.Fatalf("hangs for %v: %s", ScaleTime(limit), what)
		return nil
	}
}
