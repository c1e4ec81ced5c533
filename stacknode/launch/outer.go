package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// outer starts the program in a user namespace that maps the caller's own
// ids and nothing else, and stands in for it: signals, job control and exit
// status pass through.
func (j *job) outer(node *os.File) (code int, err error) {
	fds, err := j.pass(node)
	if err != nil {
		return 0, &Error{Op: "start in a user namespace", Err: err}
	}
	defer fds.close()
	// Before the child is there, so that no signal is lost.
	signals := make(chan os.Signal, 16)
	for _, sig := range forwarded {
		// What we ignore (nohup(1)) the program is to ignore too.
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	p, err := os.StartProcess("/proc/self/exe", []string{ArgvInner, strconv.Itoa(fds[0])}, &os.ProcAttr{
		Env:   j.Env,
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
			// Kept over the exec of ourselves; become gives it up.
			AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		},
	})
	if err != nil {
		return 0, &Error{Op: "make a user namespace", Err: err, Hint: namesHint}
	}
	go forward(p, signals)
	return wait(p.Pid)
}

// passed are descriptors that stay open over the exec by their numbers:
// os.ProcAttr.Files would put them in the place of some that the user
// passes on.
type passed []int

func (p passed) close() {
	for _, fd := range p {
		unix.Close(fd)
	}
}

// A wireJob is a job as JSON: bytes where a string need not be UTF-8. The
// environment is the process' own.
type wireJob struct {
	job
	Stack, Path []byte
	Argv        [][]byte
}

func wire(j *job) wireJob {
	w := wireJob{job: *j, Stack: []byte(j.Stack), Path: []byte(j.Path)}
	w.Env = nil
	for _, arg := range j.Argv {
		w.Argv = append(w.Argv, []byte(arg))
	}
	return w
}

func (w *wireJob) unwire() job {
	j := w.job
	j.Stack, j.Path, j.Argv = string(w.Stack), string(w.Path), nil
	for _, arg := range w.Argv {
		j.Argv = append(j.Argv, string(arg))
	}
	return j
}

// pass returns the descriptors of the job and of the node.
func (j *job) pass(node *os.File) (fds passed, err error) {
	defer func() {
		if err != nil {
			fds.close()
		}
	}()
	if j.Node, err = unix.FcntlInt(node.Fd(), unix.F_DUPFD, 10); err != nil {
		return nil, err
	}
	fds = passed{j.Node}
	text, err := json.Marshal(wire(j))
	if err != nil {
		return fds, err
	}
	fd, err := unix.MemfdCreate("stackfs-run", 0)
	if err != nil {
		return fds, err
	}
	fds = passed{fd, j.Node}
	_, err = unix.Write(fd, text)
	return fds, err
}

// forwarded are the signals that somebody may send to us and means for the
// program.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGALRM, unix.SIGWINCH, unix.SIGCONT,
}

// forward passes signals on. What the terminal sends reaches the program by
// itself, which is in our process group.
func forward(p *os.Process, signals <-chan os.Signal) {
	for sig := range signals {
		switch sig {
		case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH:
			if inForeground() {
				continue
			}
		}
		_ = p.Signal(sig)
	}
}

// inForeground tells whether our process group is the foreground one of a
// terminal.
func inForeground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	pgrp, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && pgrp == unix.Getpgrp()
}

// wait stands in for the process pid until it ends: stops when it is
// stopped, so that a shell sees it, and ends as it does.
func wait(pid int) (code int, err error) {
	for {
		var st unix.WaitStatus
		_, err := unix.Wait4(pid, &st, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, &Error{Op: "wait for the program", Err: err}
		case st.Stopped():
			followStop(pid)
		case st.Signaled():
			endBy(st.Signal())
			return 128 + int(st.Signal()), nil
		case st.Exited():
			return st.ExitStatus(), nil
		}
	}
}

// followStop stops us too, for the sake of a shell that waits for us, and
// continues the program when the shell continues us. Where no shell can
// wait, who stopped the program will continue it, and not us.
func followStop(pid int) {
	if !inForeground() || !isStopped(pid) {
		// What the terminal stops, stops us too: by now both go on again.
		return
	}
	_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	_ = unix.Kill(pid, unix.SIGCONT)
}

// isStopped looks for the letter behind the name in /proc/PID/stat.
func isStopped(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	i := bytes.LastIndexByte(b, ')')
	return err == nil && i >= 0 && i+2 < len(b) && b[i+2] == 'T'
}

// endBy ends the process by sig, without a core of our own. The handlers of
// the Go runtime, which would print where we are, are out of the way.
func endBy(sig syscall.Signal) {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	signal.Reset()
	defaultAction(sig)
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
	// Not ended: a signal that does nothing by default, or is blocked.
}
