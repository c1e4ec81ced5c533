package fstests

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// attackPython is Debian's, which every user can run.
const attackPython = "/usr/bin/python3"

// Python is met by a Python 3.9 or newer that every user can run.
func attackNeeds(t *testing.T) {
	t.Helper()
	Require(t, Root, FUSE, NetAdmin, Kernel("5.14", "SO_NETNS_COOKIE"), Kernel("5.6", "pidfd_getfd"),
		Program(attackPython), Program("unshare"))
}

// A attackMount is a mount with the Python library of the attacks.
type attackMount struct {
	*M
	lib string
}

func newAttackMount(t *testing.T, cfg Config) *attackMount {
	t.Helper()
	attackNeeds(t)
	lib := TempDir(t)
	text, err := os.ReadFile(filepath.Join("testdata", "attack", "sf.py"))
	if err == nil {
		err = os.WriteFile(filepath.Join(lib, "sf.py"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &attackMount{M: Mount(t, cfg), lib: lib}
}

// attackTime is how long (scaled) one attack may take.
const attackTime = 60 * time.Second

// python prepares an attack: code runs with the names of sf.py, after the
// words of wrap ("unshare", "-Ur").
func (m *attackMount) python(t *testing.T, code string, wrap ...string) *exec.Cmd {
	t.Helper()
	args := append(wrap, attackPython, "-c", "from sf import *\n"+code)
	cmd := Command(t, attackTime, args[0], args[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH=" + m.lib, "PYTHONDONTWRITEBYTECODE=1", "SF_MOUNT=" + m.Dir}
	cmd.Dir = "/"
	return cmd
}

// attack runs code as a user without rights, and returns what it prints.
func (m *attackMount) attack(t *testing.T, code string, wrap ...string) string {
	t.Helper()
	return RunCmd(t, AsUser(m.python(t, code, wrap...), Nobody, Nobody))
}

// asRoot runs code as root.
func (m *attackMount) asRoot(t *testing.T, code string, wrap ...string) string {
	t.Helper()
	return RunCmd(t, m.python(t, code, wrap...))
}

// startAttack starts cmd and returns once it has printed "sent". The
// function that is returned lets it go on, to its end.
func startAttack(t *testing.T, cmd *exec.Cmd) (leave func()) {
	t.Helper()
	in, err := cmd.StdinPipe()
	mustDo(t, err)
	out, err := cmd.StdoutPipe()
	mustDo(t, err)
	var errs strings.Builder
	cmd.Stderr = &errs
	mustDo(t, cmd.Start())
	word := make([]byte, 4)
	if _, err := io.ReadFull(out, word); err != nil || string(word) != "sent" {
		_ = cmd.Wait()
		t.Fatalf("the attack failed: %q, %v\n%s", word, err, errs.String())
	}
	return func() {
		t.Helper()
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the attack: %v\n%s", err, errs.String())
		}
	}
}
