package fstests

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Path returns the path of something in the mount.
func (m *M) Path(names ...string) string {
	return filepath.Join(append([]string{m.Dir}, names...)...)
}

// Ctl writes one order to the file ctl and returns the answer and the error
// of the write.
func (m *M) Ctl(line string) (answer string, err error) {
	m.t.Helper()
	err = Within(m.t, answerTime, "ctl: "+line, func() error {
		f, err := os.OpenFile(m.Path("ctl"), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, werr := f.WriteString(line + "\n")
		b, rerr := io.ReadAll(f)
		answer = string(b)
		return errors.Join(werr, rerr)
	})
	return answer, err
}

// MustCtl is Ctl for an order that is to be carried out.
func (m *M) MustCtl(line string) {
	m.t.Helper()
	if answer, err := m.Ctl(line); err != nil || answer != "ok\n" {
		m.t.Fatalf("ctl %q: got %q, %v, want ok", line, answer, err)
	}
}

// Read returns the contents of a file in the mount.
func (m *M) Read(names ...string) string {
	m.t.Helper()
	var b []byte
	err := Within(m.t, answerTime, "read "+m.Path(names...), func() (err error) {
		b, err = os.ReadFile(m.Path(names...))
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// Status returns the lines of a stack's status file.
func (m *M) Status(stack string) map[string]string {
	m.t.Helper()
	lines := map[string]string{}
	for line := range strings.Lines(m.Read(stack, "status")) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		lines[key] = value
	}
	return lines
}

// Command prepares "stackfs args...".
func (m *M) Command(args ...string) *exec.Cmd {
	m.t.Helper()
	return Command(m.t, answerTime, m.bin, args...)
}

// Log returns what the daemons of this mount have logged.
func (m *M) Log() string { return m.log.all() }
