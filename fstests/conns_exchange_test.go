package fstests

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// exchangeTime is how long (scaled) an exchange may take from start to end.
const exchangeTime = 10 * time.Minute

// An exchanger is a program that sends and checks known bytes; see
// testdata/conns/c/exchange.h.
type exchanger struct {
	name string
	argv []string
}

func exchangerC(t testing.TB, name string) exchanger {
	t.Helper()
	Require(t, Compiler)
	return exchanger{name, []string{Compile(t, filepath.Join("testdata", "conns", "c", name+".c"), "-D_GNU_SOURCE", "-pthread")}}
}

// exchangers returns a program for each way to wait for a socket.
func exchangers(t testing.TB) []exchanger {
	t.Helper()
	Require(t, Program("/usr/bin/python3"))
	return []exchanger{
		exchangerC(t, "block"),
		exchangerC(t, "epoll"),
		{"go", []string{GoBuild(t, filepath.Join("testdata", "conns", "go"))}},
		{"asyncio", []string{"/usr/bin/python3", "-B", mustAbs(t, filepath.Join("testdata", "conns", "aio.py"))}},
	}
}

// An exchangeReport is what one side of an exchange has seen.
type exchangeReport struct {
	Sent     uint64         `json:"sent"`
	Received uint64         `json:"received"`
	Corrupt  uint64         `json:"corrupt"` // bytes
	Reads    uint64         `json:"reads"`
	EINTR    int            `json:"eintr"`
	MaxGapUS int64          `json:"max_gap_us"` // the longest time without a byte
	EOF      bool           `json:"eof"`
	Errors   map[string]int `json:"errors"` // by the name of the errno

	// Only with the option alarm.
	Handlers, Expired, Expected, Queued, Unexpected int64
}

func (r *exchangeReport) gap() time.Duration { return time.Duration(r.MaxGapUS) * time.Microsecond }

// A party is one side of an exchange.
type party struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// startParty starts a side and waits until it says the word.
func startParty(t testing.TB, cmd *exec.Cmd, word string) *party {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	startBackground(t, cmd)
	p := &party{cmd, in, bufio.NewScanner(out)}
	p.expect(t, word)
	return p
}

func (p *party) expect(t testing.TB, word string) {
	t.Helper()
	err := Within(t, runTime, strings.Join(p.cmd.Args, " ")+" says "+word, func() error {
		if !p.lines.Scan() || p.lines.Text() != word {
			return fmt.Errorf("it says %q", p.lines.Text())
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v, want %s", strings.Join(p.cmd.Args, " "), err, word)
	}
}

func (p *party) pid() int { return p.cmd.Process.Pid }

// report waits for the end of the program, which was told to stop.
func (p *party) report(t testing.TB) (r exchangeReport) {
	t.Helper()
	err := Within(t, runTime, strings.Join(p.cmd.Args, " ")+" reports", func() error {
		for p.lines.Scan() {
			if line := p.lines.Bytes(); len(line) > 0 && line[0] == '{' {
				return json.Unmarshal(line, &r)
			}
		}
		return io.ErrUnexpectedEOF
	})
	if err == nil {
		err = p.cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(p.cmd.Args, " "), err)
	}
	return r
}

// An exchange is a connection on which bytes flow in both directions.
type exchange struct {
	t              testing.TB
	name           string
	server, client *party
	port           int
	interrupted    bool // by somebody who is not us: an EINTR is no failure
}

// sides returns both.
func (e *exchange) sides() []*party { return []*party{e.server, e.client} }

// startExchange connects two programs. They send nothing before begin.
func startExchange(t testing.TB, x exchanger, server, client *NS, address netip.Addr, port int, opts ...string) *exchange {
	t.Helper()
	prepare := func(ns *NS, role string) *exec.Cmd {
		args := append(append([]string{}, x.argv[1:]...), role, address.String(), fmt.Sprint(port))
		return ns.Command(exchangeTime, x.argv[0], append(args, opts...)...)
	}
	e := &exchange{t: t, name: x.name, port: port}
	e.server = startParty(t, prepare(server, "server"), "ready")
	e.client = startParty(t, prepare(client, "client"), "connected")
	e.server.expect(t, "connected")
	return e
}

// begin lets the bytes flow.
func (e *exchange) begin() {
	e.t.Helper()
	for _, p := range e.sides() {
		if _, err := io.WriteString(p.in, "\n"); err != nil {
			e.t.Fatalf("%s: %v", e.name, err)
		}
	}
}

// end lets both sides stop. It fails the test for whatever they saw of the
// test, and returns the reports of server and client.
func (e *exchange) end() (server, client exchangeReport) {
	e.t.Helper()
	for _, p := range e.sides() {
		p.in.Close()
	}
	server, client = e.server.report(e.t), e.client.report(e.t)
	for _, side := range []struct {
		name     string
		own, far exchangeReport
	}{{"server", server, client}, {"client", client, server}} {
		r := side.own
		if len(r.Errors) > 0 || r.EINTR > 0 && !e.interrupted || r.Corrupt > 0 || !r.EOF {
			e.t.Errorf("%s %s: errors %v, %d EINTR, %d corrupt bytes, end %v", e.name, side.name, r.Errors, r.EINTR, r.Corrupt, r.EOF)
		}
		if r.Received != side.far.Sent || r.Received == 0 {
			e.t.Errorf("%s %s: received %d bytes of %d", e.name, side.name, r.Received, side.far.Sent)
		}
	}
	return server, client
}

// tasks returns the lines of a field of /proc/PID/status, for each thread.
func tasks(pid int, field string) (values []string) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread ended
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, field+":"); ok {
				values = append(values, strings.TrimSpace(value))
			}
		}
	}
	return values
}

// frozen tells what of a process is stopped or traced.
func frozen(pid int) error {
	states := tasks(pid, "State")
	if len(states) == 0 {
		return fmt.Errorf("process %d: %w", pid, syscall.ESRCH)
	}
	for _, state := range states {
		if strings.HasPrefix(state, "T") || strings.HasPrefix(state, "t") {
			return fmt.Errorf("a thread of process %d is in state %s", pid, state)
		}
	}
	for _, tracer := range tasks(pid, "TracerPid") {
		if tracer != "0" {
			return fmt.Errorf("a thread of process %d is traced by %s", pid, tracer)
		}
	}
	return nil
}
