package fstests

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A process is a daemon in the foreground.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed after Wait

	// As it was when it got ready.
	fds    map[string]int
	stacks int
}

// spawn starts cmd, with its standard error to the log. If the test
// program dies the daemon is told to end.
func (m *M) spawn(cmd *exec.Cmd) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig is about the thread that forked: it must stay.
		runtime.LockOSThread()
		err := cmd.Start()
		w.Close()
		started <- err
		if err != nil {
			r.Close()
			return
		}
		m.log.pump(r)
		r.Close()
		_ = cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// A notifySocket is where a daemon says that it is ready; see sd_notify(3).
type notifySocket struct {
	*net.UnixConn
	dir, path string
}

func newNotifySocket() (*notifySocket, error) {
	dir, err := os.MkdirTemp("", "stackfs-notify-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &notifySocket{conn, dir, path}, nil
}

func (n *notifySocket) Close() error {
	return errors.Join(n.UnixConn.Close(), os.RemoveAll(n.dir))
}

// ready returns when READY=1 has come, or an error when ended is closed.
func (n *notifySocket) ready(ended <-chan struct{}) error {
	got := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		for {
			k, err := n.Read(b)
			if err != nil || strings.Contains(string(b[:k]), "READY=1") {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		return err
	case <-ended:
		return errors.New("the daemon ended before it was ready")
	case <-time.After(ScaleTime(startTime)):
		return errors.New("the daemon does not get ready")
	}
}

// findKeeper learns from the keeper, a child of the daemon, where both keep
// their files.
func (m *M) findKeeper() {
	pid := m.PID()
	for _, child := range children(pid) {
		argv := cmdline(child)
		if len(argv) == 2 && argv[0] == "stackfs-keeper" {
			m.runDir = argv[1]
			m.keepers = append(m.keepers, child)
		}
	}
}

// PID returns the daemon's, 0 if none runs.
func (m *M) PID() int {
	if m.daemon == nil {
		return 0
	}
	return m.daemon.cmd.Process.Pid
}

// Keeper returns the process id of the daemon's keeper.
func (m *M) Keeper() int { return m.keepers[len(m.keepers)-1] }

// Kill ends the daemon by SIGKILL and waits for that.
func (m *M) Kill() {
	m.t.Helper()
	m.Signal(syscall.SIGKILL)
	m.Wait()
}

// Stop ends the daemon by SIGTERM and returns its exit code.
func (m *M) Stop() int {
	m.t.Helper()
	m.Signal(syscall.SIGTERM)
	return m.Wait()
}

// Signal sends the daemon a signal.
func (m *M) Signal(sig syscall.Signal) {
	m.t.Helper()
	if err := m.daemon.cmd.Process.Signal(sig); err != nil {
		m.t.Fatalf("signal the daemon: %v", err)
	}
}

// Pause stops the daemon where it is, until Resume or Kill.
func (m *M) Pause() {
	m.t.Helper()
	m.Signal(syscall.SIGSTOP)
	WaitFor(m.t, answerTime, "the daemon stops", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PID()))
		if err != nil {
			m.t.Fatal(err)
		}
		// "PID (NAME) STATE ..."; the name may have anything but its end.
		text := string(b)
		return strings.HasPrefix(text[strings.LastIndex(text, ")")+1:], " T")
	})
}

// Resume lets a daemon go on that Pause stopped.
func (m *M) Resume() {
	m.t.Helper()
	m.Signal(syscall.SIGCONT)
}

// Wait returns the exit code of a daemon that ends, -1 for a signal. One
// that does not end in time is killed, and its goroutines go to the log.
func (m *M) Wait() int {
	m.t.Helper()
	p := m.daemon
	m.daemon = nil
	select {
	case <-p.ended:
	case <-time.After(ScaleTime(stopTime)):
		m.t.Errorf("the daemon does not end")
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-p.ended:
		case <-time.After(2 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	}
	return p.cmd.ProcessState.ExitCode()
}
