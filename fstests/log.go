package fstests

import (
	"bufio"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// A logWatch passes log lines to the test and fails it for those of level
// WARN and above that nobody announced.
type logWatch struct {
	t testing.TB

	mu    sync.Mutex // guards the fields below
	allow []string
	lines []string
	ended bool
}

var badLine = regexp.MustCompile(`\blevel=(WARN|ERROR)\b|^panic:|^fatal error:`)

func (w *logWatch) line(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
	if w.ended {
		return // a test that has ended cannot log
	}
	if badLine.MatchString(line) && !w.announced(line) {
		w.t.Errorf("unannounced in the log: %s", line)
		return
	}
	w.t.Log(line)
}

// announced is called with w.mu held.
func (w *logWatch) announced(line string) bool {
	for _, text := range w.allow {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}

// pump passes on what r has until its end.
func (w *logWatch) pump(r io.Reader) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		w.line(sc.Text())
	}
}

// all returns the log so far.
func (w *logWatch) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "\n")
}

func (w *logWatch) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		w.line(strings.TrimSuffix(line, "\n"))
	}
	return len(b), nil
}

func newLogWatch(t testing.TB, allow []string) *logWatch {
	w := &logWatch{t: t, allow: allow}
	t.Cleanup(func() {
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
	})
	return w
}

// Logger returns a logger that writes to t.Log and fails the test on Warn
// and above, unless the line has one of the texts in allow.
func Logger(t testing.TB, allow ...string) *slog.Logger {
	return slog.New(slog.NewTextHandler(newLogWatch(t, allow), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
