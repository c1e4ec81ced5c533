package fstests

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A terminal is a program on a pseudo terminal, which somebody types on.
type terminal struct {
	t    testing.TB
	cmd  *exec.Cmd
	ptmx *os.File

	mu   sync.Mutex // guards what follows
	text bytes.Buffer
	read int // how much expect has used up
}

// onTerminal starts cmd as the leader of a session with a terminal.
func onTerminal(t testing.TB, cmd *exec.Cmd) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, cmd: cmd, ptmx: os.NewFile(uintptr(fd), "ptmx")}
	t.Cleanup(func() { term.ptmx.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	name := "/dev/pts/" + strconv.Itoa(n)
	tty, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cred := cmd.SysProcAttr.Credential
	if cred != nil {
		if err := os.Chown(name, int(cred.Uid), int(cred.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Credential: cred}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go term.pump()
	t.Cleanup(func() {
		_ = cmd.Cancel()
		_ = cmd.Wait()
	})
	return term
}

func (p *terminal) pump() {
	b := make([]byte, 4096)
	for {
		n, err := p.ptmx.Read(b)
		p.mu.Lock()
		p.text.Write(b[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// send types.
func (p *terminal) send(s string) {
	p.t.Helper()
	if _, err := p.ptmx.WriteString(s); err != nil {
		p.t.Fatal(err)
	}
}

// expect waits until the terminal shows s, behind what was expected before.
func (p *terminal) expect(s string) {
	p.t.Helper()
	if !waitFor(20*time.Second, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		i := strings.Index(p.text.String()[p.read:], s)
		if i >= 0 {
			p.read += i + len(s)
		}
		return i >= 0
	}) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.t.Fatalf("the terminal does not show %q:\n%s\n----\n%s", s, p.text.String()[:p.read], p.text.String()[p.read:])
	}
}

// count tells how often the terminal has shown s.
func (p *terminal) count(s string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Count(p.text.String(), s)
}
