package fstests

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Command prepares a program in a process group of its own, which is killed
// as a whole when timeout (scaled) is over or the test ends.
func Command(t testing.TB, timeout time.Duration, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), ScaleTime(timeout))
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// AsUser makes cmd run with these ids and no capability.
func AsUser(cmd *exec.Cmd, uid, gid uint32, groups ...uint32) *exec.Cmd {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}
	return cmd
}

// Nobody is the user that tests take for one without rights.
const Nobody = 65534

// Output runs cmd and returns what it wrote and its exit code. A program
// that could not be started or was killed fails the test.
func Output(t testing.TB, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		if cmd.Process != nil && errors.Is(err, exec.ErrWaitDelay) {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out.String(), errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Run runs a program for up to timeout (scaled) and returns its standard
// output. Another exit code than 0 fails the test.
func Run(t testing.TB, timeout time.Duration, name string, args ...string) string {
	t.Helper()
	return RunCmd(t, Command(t, timeout, name, args...))
}

// RunCmd is Run for a prepared command.
func RunCmd(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	stdout, stderr, code := Output(t, cmd)
	if code != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", strings.Join(cmd.Args, " "), code, stdout, stderr)
	}
	return stdout
}
