package fstests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A connRow is a line of the file connections.
type connRow struct {
	cookie        string
	state         string
	recvQ, sendQ  int
	local, remote string
	uid           string
	inode         string
}

// conns reads the table of a stack.
func (m *M) conns(stack string) (rows []connRow) {
	m.t.Helper()
	for line := range strings.Lines(m.Read(stack, "connections")) {
		f := strings.Fields(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		if len(f) != 9 {
			m.t.Fatalf("connections: %q has %d fields, want 9", line, len(f))
		}
		recvQ, err1 := strconv.Atoi(f[3])
		sendQ, err2 := strconv.Atoi(f[4])
		if err := errors.Join(err1, err2); err != nil {
			m.t.Fatalf("connections: %q: %v", line, err)
		}
		rows = append(rows, connRow{f[0], f[1], recvQ, sendQ, f[5], f[6], f[7], f[8]})
	}
	return rows
}

// established lists the connections of a stack that a port is an end of.
func (m *M) established(stack string, port int) (rows []connRow) {
	m.t.Helper()
	end := fmt.Sprintf(":%d", port)
	for _, r := range m.conns(stack) {
		if r.state == "established" && (strings.HasSuffix(r.local, end) || strings.HasSuffix(r.remote, end)) {
			rows = append(rows, r)
		}
	}
	return rows
}

// has tells whether a connection is there, and in a state.
func (m *M) has(stack, cookie, state string) bool {
	m.t.Helper()
	for _, r := range m.conns(stack) {
		if r.cookie == cookie {
			return r.state == state
		}
	}
	return false
}

// connOf returns the connection of an exchange on a stack: of the server or
// of the client.
func (m *M) connOf(stack string, port int, server bool) connRow {
	m.t.Helper()
	end := fmt.Sprintf(":%d", port)
	for _, r := range m.established(stack, port) {
		if strings.HasSuffix(r.local, end) == server {
			return r
		}
	}
	m.t.Fatalf("no connection of port %d in %s/connections (server: %v)", port, stack, server)
	return connRow{}
}

// checkpointPath is what is read for an image.
func (m *M) checkpointPath(stack, cookie string) string {
	return m.Path(stack, "conns", cookie, "checkpoint")
}

// checkpoint returns the image of a connection.
func (m *M) checkpoint(stack, cookie string) []byte {
	m.t.Helper()
	var b []byte
	err := Within(m.t, answerTime, "checkpoint of "+cookie, func() (err error) {
		b, err = os.ReadFile(m.checkpointPath(stack, cookie))
		return err
	})
	if err != nil {
		m.t.Fatalf("checkpoint: %v: %s", err, m.whyNot(stack, cookie))
	}
	return b
}

// whyNot returns what the daemon says about the last thing that failed.
func (m *M) whyNot(stack, cookie string) string {
	m.t.Helper()
	var b []byte
	_ = Within(m.t, answerTime, "the reason", func() (err error) {
		b, err = os.ReadFile(m.Path(stack, "conns", cookie, "ctl"))
		return err
	})
	return strings.TrimSpace(string(b))
}

// A heldSocket is the socket of another process, for a moment.
type heldSocket struct{ fd int }

// socketOf takes a duplicate of a socket of a process, by its inode.
func socketOf(pid int, inode string) (*heldSocket, error) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, file := range files {
		if target, err := os.Readlink(file); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		n, err := strconv.Atoi(filepath.Base(file))
		if err != nil {
			return nil, err
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return nil, os.NewSyscallError("pidfd_open", err)
		}
		defer unix.Close(pidfd)
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		return &heldSocket{fd}, os.NewSyscallError("pidfd_getfd", err)
	}
	return nil, fmt.Errorf("process %d has no socket %s", pid, inode)
}

// socketMarks are what a checkpoint in repair mode may leave behind or take
// away.
type socketMarks struct {
	repair, reuse int
	filter        string // the first bytes of it, enough to tell it from another
}

func (s *heldSocket) marks() (m socketMarks, err error) {
	var errs [3]error
	m.repair, errs[0] = unix.GetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_REPAIR)
	m.reuse, errs[1] = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	m.filter, errs[2] = unix.GetsockoptString(s.fd, unix.SOL_SOCKET, unix.SO_GET_FILTER)
	return m, errors.Join(errs[:]...)
}

// marksOf returns the marks of a connection that a process holds.
func marksOf(pid int, inode string) (socketMarks, error) {
	s, err := socketOf(pid, inode)
	if err != nil {
		return socketMarks{}, err
	}
	defer unix.Close(s.fd)
	return s.marks()
}

// mustMarksOf is marksOf for a process that is there.
func mustMarksOf(t testing.TB, pid int, inode string) socketMarks {
	t.Helper()
	m, err := marksOf(pid, inode)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// letGoTime is within what everything is as before when somebody is killed.
const letGoTime = time.Second

// wantLetGo waits until the process runs and its socket is as it was.
func wantLetGo(t testing.TB, what string, pid int, inode string, want socketMarks) {
	t.Helper()
	var now socketMarks
	var stuck, err error
	if !waitFor(letGoTime, func() bool {
		stuck = frozen(pid)
		now, err = marksOf(pid, inode)
		return stuck == nil && err == nil && now == want
	}) {
		t.Fatalf("%s: after %v: %v; the socket: got %+v, want %+v, %v", what, ScaleTime(letGoTime), stuck, now, want, err)
	}
}
