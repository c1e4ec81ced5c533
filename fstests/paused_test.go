package fstests

import (
	"strings"
	"testing"
	"time"
)

// TestCommandsWithStoppedDaemon: a command does not wait for a daemon that
// is stopped, it says so and ends.
func TestCommandsWithStoppedDaemon(t *testing.T) {
	Require(t, treeNeeds...)
	m := Mount(t, Config{Stacks: []string{"lab"}})
	// What the kernel remembers of the tree is to be forgotten.
	time.Sleep(1100 * time.Millisecond)
	m.Pause()
	defer m.Resume()
	t.Run("commands", func(t *testing.T) {
		lab := m.Path("lab")
		for _, test := range []struct {
			args []string
			code int
		}{
			{[]string{"ls", m.Dir}, 7},
			{[]string{"ls", lab}, 7},
			{[]string{"status", m.Dir}, 7},
			{[]string{"status", lab}, 7},
			{[]string{"add", m.Path("new")}, 7},
			{[]string{"rm", lab}, 7},
			{[]string{"reload", m.Dir}, 7},
			{[]string{"umount", m.Dir}, 7},
			{[]string{"run", lab, "--", "true"}, 125},
			{[]string{"run", "-s", lab}, 125},
			{[]string{"run", "--no-resolv", lab, "--", "true"}, 125},
		} {
			t.Run(test.args[0], func(t *testing.T) {
				t.Parallel()
				start := time.Now()
				_, errs, code := Output(t, Command(t, 20*time.Second, m.bin, test.args...))
				if code != test.code || !strings.Contains(errs, "does not answer") || !strings.Contains(errs, "umount --force "+m.Dir) {
					t.Errorf("exit code %d, want %d: %s", code, test.code, errs)
				}
				if d := time.Since(start); d > ScaleTime(8*time.Second) {
					t.Errorf("it took %v", d)
				}
			})
		}
	})
}
