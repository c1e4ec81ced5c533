package fstests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// examplePath is the example of README.md; see TestReadmeHasThePythonExample.
const examplePath = "testdata/msocket.py"

// python finds an interpreter that other users can run too.
func python(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("/usr/bin/python3"); err == nil {
		return path
	}
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPythonNeedsNothingOfOurs(t *testing.T) {
	Require(t, append(treeNeeds, Program("python3"), Kernel("5.14", "SO_NETNS_COOKIE"))...)
	m := Mount(t, Config{
		Stacks: []string{"roots"},
		TOML:   "[stack.lab]\nmode = \"0755\"\n[stack.group]\nmode = \"0750\"\ngroup = 65534\n",
	})
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n > 30 {
		t.Errorf("the example has %d lines, want 30 at most", n)
	}
	script := filepath.Join(TempDir(t), "msocket.py")
	if err := os.WriteFile(script, text, 0o644); err != nil {
		t.Fatal(err)
	}
	interpreter := python(t)
	for _, c := range []struct {
		stack string
		uid   uint32
		err   string // what the last line of the traceback begins with
	}{
		{"kernel", 0, ""},
		{"lab", 0, ""},
		{"roots", 0, ""},
		{"kernel", Nobody, ""},
		{"lab", Nobody, ""},
		{"group", Nobody, ""},
		{"roots", Nobody, "PermissionError: [Errno 13]"},
		{"null", 0, "OSError: [Errno 97]"},
		{"null", Nobody, "OSError: [Errno 97]"},
		{"none", 0, "FileNotFoundError: [Errno 2]"},
		{"ctl", 0, "NotADirectoryError: [Errno 20]"},
	} {
		cmd := AsUser(Command(t, 30*time.Second, interpreter, script, m.Path(c.stack)), c.uid, c.uid)
		stdout, stderr, code := Output(t, cmd)
		if c.err != "" {
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			if last := lines[len(lines)-1]; code == 0 || !strings.HasPrefix(last, c.err) {
				t.Errorf("%s as %d: exit code %d, %s, want %s", c.stack, c.uid, code, last, c.err)
			}
			continue
		}
		if want := m.Status(c.stack)["netns_cookie"] + "\n"; code != 0 || stdout != want {
			t.Errorf("%s as %d: exit code %d, namespace %q, want %q\n%s", c.stack, c.uid, code, stdout, want, stderr)
		}
	}
	// A sandbox is none if the host's stack can be had from within.
	ns := NetNS(t)
	for stack, want := range map[string]string{"kernel": "PermissionError: [Errno 13]", "lab": ""} {
		stdout, stderr, code := Output(t, ns.Command(30*time.Second, interpreter, script, m.Path(stack)))
		switch {
		case want != "" && (code == 0 || !strings.Contains(stderr, want)):
			t.Errorf("%s from another namespace: %q, %s, want %s", stack, stdout, stderr, want)
		case want == "" && stdout != m.Status(stack)["netns_cookie"]+"\n":
			t.Errorf("%s from another namespace: %q, %s", stack, stdout, stderr)
		}
	}
}

// TestReadmeHasThePythonExample: what readers copy is what is tested.
func TestReadmeHasThePythonExample(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if os.IsNotExist(err) {
		t.Skip("no README.md yet")
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```python\n"+string(text)+"```\n") {
		t.Errorf("README.md does not have %s between ```python fences", examplePath)
	}
}
