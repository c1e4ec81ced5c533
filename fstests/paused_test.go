package fstests

import (
	"bytes"
	"os/exec"
	"path/filepath"
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
	lab := m.Path("lab")
	img := mustAbs(t, filepath.Join("..", "soccr", "image", "testdata", "format1.img"))
	tests := []*struct {
		args []string
		code int
		cmd  *exec.Cmd
		errs bytes.Buffer
	}{
		{args: []string{"ls", m.Dir}, code: 7},
		{args: []string{"ls", lab}, code: 7},
		{args: []string{"status", m.Dir}, code: 7},
		{args: []string{"status", lab}, code: 7},
		{args: []string{"add", m.Path("new")}, code: 7},
		{args: []string{"rm", lab}, code: 7},
		{args: []string{"reload", m.Dir}, code: 7},
		{args: []string{"umount", m.Dir}, code: 7},
		{args: []string{"conns", lab}, code: 7},
		{args: []string{"conns", lab, "5"}, code: 7},
		{args: []string{"checkpoint", "-o", "/dev/null", lab, "5"}, code: 7},
		{args: []string{"checkpoint", "--move", lab, "5"}, code: 7},
		{args: []string{"checkpoint", "--all", lab, TempDir(t)}, code: 7},
		{args: []string{"restore", "--check", img, lab}, code: 7},
		{args: []string{"restore", img, lab, "--", "true"}, code: 125},
		{args: []string{"run", lab, "--", "true"}, code: 125},
		{args: []string{"run", "-s", lab}, code: 125},
		{args: []string{"run", "--no-resolv", lab, "--", "true"}, code: 125},
	}
	// All at a time, also where few tests may run in parallel.
	for _, test := range tests {
		test.cmd = Command(t, 8*time.Second, m.bin, test.args...)
		test.cmd.Stderr = &test.errs
		mustDo(t, test.cmd.Start())
	}
	for _, test := range tests {
		err := test.cmd.Wait() // killed if it does not end
		errs := test.errs.String()
		if test.cmd.ProcessState.ExitCode() != test.code || !strings.Contains(errs, "does not answer") || !strings.Contains(errs, "umount --force "+m.Dir) {
			t.Errorf("stackfs %s: got %v, want exit code %d: %s", strings.Join(test.args, " "), err, test.code, errs)
		}
	}
}
