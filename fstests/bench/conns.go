package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The stack whose connections are measured, and its daemon.
const (
	connsName   = "conns"
	connsPath   = "/run/bench/conns"
	configConns = "discover = false\ncheckpoint = \"auto\"\nstate_dir = \"/run/bench/state\"\n" +
		"[stack." + connsName + "]\npath = \"" + connsPath + "\"\n"
)

// connsDaemon returns the daemon of the stack, in which nothing is at first.
func (s *site) connsDaemon(ctx context.Context) (*daemon, error) {
	if s.daemons[configConns] == nil {
		if err := makeNetNS(connsPath); err != nil {
			return nil, err
		}
		up := command{argv: []string{"ip", "link", "set", "lo", "up"}, netns: connsPath}
		if _, err := up.output(ctx); err != nil {
			return nil, err
		}
	}
	return s.daemon(ctx, configConns)
}

// A tended program is one that answers lines with lines. It ends with its
// standard input.
type tended struct {
	cmd  *exec.Cmd
	in   *io.PipeWriter
	out  *bufio.Scanner
	stop context.CancelFunc
}

// tend starts a program in the stack and waits for the line in which it says
// that it is ready, whose other words are returned.
func (s *site) tend(ctx context.Context, argv ...string) (p *tended, words []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	cmd, err := command{argv: argv, netns: connsPath, stdin: inR}.start(ctx, outW, nil)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	go func() {
		<-ctx.Done()
		inW.Close()
		outW.Close()
	}()
	p = &tended{cmd, inW, bufio.NewScanner(outR), cancel}
	line, err := p.line()
	words = strings.Fields(line)
	if err == nil && (len(words) == 0 || words[0] != "ready") {
		err = fmt.Errorf("%s says %q", argv[0], line)
	}
	if err != nil {
		p.end()
		return nil, nil, err
	}
	return p, words[1:], nil
}

// line reads one line.
func (p *tended) line() (string, error) {
	timer := time.AfterFunc(commandLimit, p.stop)
	defer timer.Stop()
	if !p.out.Scan() {
		return "", errors.Join(fmt.Errorf("%s: %w", p.cmd.Path, io.ErrUnexpectedEOF), p.out.Err())
	}
	return p.out.Text(), nil
}

// ask sends a line and returns the answer.
func (p *tended) ask(line string) (string, error) {
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return "", err
	}
	return p.line()
}

// end ends the program.
func (p *tended) end() {
	p.stop()
	_ = p.cmd.Wait()
}

// A spinner is a program that uses a socket all the time; see c/spin.c.
type spinner struct {
	*tended
	fd     int
	cookie string
}

// spinner starts one on a CPU, with so many bytes in each queue.
func (s *site) spinner(ctx context.Context, cpu, bytes, write int) (*spinner, error) {
	p, words, err := s.tend(ctx, s.tool("spin"), cpuArg(cpu), strconv.Itoa(bytes), strconv.Itoa(write))
	if err != nil {
		return nil, err
	}
	sp := &spinner{tended: p}
	if len(words) == 2 {
		sp.cookie = words[1]
		sp.fd, err = strconv.Atoi(words[0])
	}
	if sp.cookie == "" || err != nil {
		p.end()
		return nil, fmt.Errorf("spin says %q: %w", words, err)
	}
	return sp, nil
}

// pause returns for how long the program could not use its socket at one go,
// in microseconds, while fn ran.
func (p *spinner) pause(fn func() error) (float64, error) {
	if _, err := p.ask("b"); err != nil {
		return 0, err
	}
	if err := fn(); err != nil {
		return 0, err
	}
	line, err := p.ask("e")
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseFloat(line, 64)
	return ns / 1000, err
}

// path returns the file that is read for an image of the socket.
func (p *spinner) path(d *daemon) string {
	return filepath.Join(d.node(connsName), "conns", p.cookie, "checkpoint")
}

// farmSize is how many sockets a process makes at most: the descriptor limit
// may be 20,000.
const farmSize = 18_000

// farm lets the stack have n sockets with connections between them; what is
// there already stays.
func (s *site) farm(ctx context.Context, n int) error {
	for s.farmed < n {
		more := min(n-s.farmed, farmSize)
		port := 1024 + len(s.farms)
		p, _, err := s.tend(ctx, s.tool("farm"), strconv.Itoa(more), strconv.Itoa(port))
		if err != nil {
			return err
		}
		s.farms = append(s.farms, p)
		s.farmed += more
	}
	if s.farmed != n {
		return fmt.Errorf("there are %d connections already, not %d", s.farmed, n)
	}
	return nil
}
