package fstests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// runTime is how long a program of these tests may take (scaled).
const runTime = 60 * time.Second

// cProgram builds the C program of the folder testdata/NAME once in a test
// run and returns its path. The variants are names of what follows.
func cProgram(t testing.TB, name string, variant string) string {
	t.Helper()
	bin, err := cPrograms(name, variant)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// cVariants are flags of the compiler.
var cVariants = map[string][]string{"": nil, "32": {"-m32"}, "static": {"-static"}}

var cBuilt struct {
	sync.Mutex
	path map[string]string
}

func cPrograms(name, variant string) (string, error) {
	cBuilt.Lock()
	defer cBuilt.Unlock()
	key := name + variant
	if path := cBuilt.path[key]; path != "" {
		return path, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "runtest")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(root, "fstests", "testdata", name, "*.c"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, key)
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	args := append([]string{"-std=gnu11", "-O1", "-Wall", "-Wextra", "-pthread", "-o", fresh}, cVariants[variant]...)
	if out, err := exec.Command("cc", append(args, files...)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc %s: %w\n%s", name, err, out)
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", err
	}
	if cBuilt.path == nil {
		cBuilt.path = map[string]string{}
	}
	cBuilt.path[key] = path
	return path, nil
}

// A runMount is a mount with the stacks
//
//	lab    0755
//	other  0755
//	priv   0700, of root
//
// and the test program for what runs on them.
type runMount struct {
	*M
	t     testing.TB
	probe string
	host  string // cookies of namespaces
	lab   string
	other string
}

// newRunMount mounts; toml is added to the configuration.
func newRunMount(t testing.TB, toml string, allowLog ...string) *runMount {
	t.Helper()
	Require(t, Root, FUSE, NetAdmin, Compiler, Kernel("5.14", "SO_NETNS_COOKIE"))
	text := "[stack.lab]\nmode = \"0755\"\n[stack.other]\nmode = \"0755\"\n[stack.priv]\n" + toml
	m := &runMount{M: Mount(t, Config{TOML: text, AllowLog: allowLog}), t: t, probe: cProgram(t, "run", "")}
	m.host = strings.TrimPrefix(strings.TrimSpace(Run(t, runTime, m.probe, "cookie")), "ok ")
	m.lab, m.other = m.Status("lab")["netns_cookie"], m.Status("other")["netns_cookie"]
	if m.lab == "" || m.lab == m.host || m.lab == m.other {
		t.Fatalf("cookies of the namespaces: host %q, lab %q, other %q", m.host, m.lab, m.other)
	}
	t.Cleanup(m.noRuns)
	return m
}

// noRuns fails the test unless every run has been forgotten.
func (m *runMount) noRuns() {
	if m.daemon == nil {
		return
	}
	for _, stack := range []string{"lab", "other"} {
		if !waitFor(leakTime, func() bool { return m.Status(stack)["runs"] == "0" }) {
			m.t.Errorf("stack %s: %s runs are left", stack, m.Status(stack)["runs"])
		}
	}
}

// run prepares "stackfs run ARGS", words separated by spaces; a word that
// begins with ./ is meant as a node of the mount.
func (m *runMount) run(line string, more ...string) *exec.Cmd {
	m.t.Helper()
	args := append([]string{"run"}, strings.Fields(line)...)
	args = append(args, more...)
	for i, a := range args {
		if name, ok := strings.CutPrefix(a, "./"); ok {
			args[i] = m.Path(name)
		}
	}
	return Command(m.t, runTime, m.bin, args...)
}

// out is the standard output of a program that must succeed, with the
// stacks' cookies replaced by their names.
func (m *runMount) out(cmd *exec.Cmd) string {
	m.t.Helper()
	return m.named(strings.TrimSpace(RunCmd(m.t, cmd)))
}

func (m *runMount) named(s string) string {
	names := map[string]string{m.host: "HOST", m.lab: "LAB", m.other: "OTHER"}
	return cookieWord.ReplaceAllStringFunc(s, func(found string) string {
		word, n, _ := strings.Cut(found, " ")
		if name, ok := names[n]; ok {
			return word + " " + name
		}
		return found
	})
}

var cookieWord = regexp.MustCompile(`(ok|hello) \d+`)

// check compares what a program prints.
func (m *runMount) check(cmd *exec.Cmd, want string) {
	m.t.Helper()
	if got := m.out(cmd); got != want {
		m.t.Errorf("%s: got %q, want %q", strings.Join(cmd.Args[1:], " "), got, want)
	}
}

// fails checks that a program is refused with code, and that standard error
// says why.
func (m *runMount) fails(cmd *exec.Cmd, code int, why string) {
	m.t.Helper()
	stdout, stderr, got := Output(m.t, cmd)
	if got != code || !strings.Contains(stderr, why) || stdout != "" {
		m.t.Errorf("%s: exit code %d, %q, %q; want %d, %q and no output", strings.Join(cmd.Args[1:], " "), got, stdout, stderr, code, why)
	}
}

// users are the two ways in which run works: as root the process becomes
// the program, as a user it stands in for it.
var runUsers = map[string]func(*exec.Cmd) *exec.Cmd{
	"root": func(c *exec.Cmd) *exec.Cmd { return c },
	"user": func(c *exec.Cmd) *exec.Cmd { return AsUser(c, Nobody, Nobody) },
}
