package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// envIsolated tells the second process, which does the work, that it is in
// namespaces of its own.
const envIsolated = "STACKFS_BENCH_ISOLATED"

func isolated() bool { return os.Getenv(envIsolated) != "" }

// runIsolated runs this program again as the first process of a new pid
// namespace, in new mount and network namespaces, and returns its exit code.
// When it ends, or is killed because ctx is done or this process dies, the
// kernel kills all that it started and takes its mounts and namespaces back.
func runIsolated(ctx context.Context) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: needs root")
		return exitFailed
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envIsolated+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL, // of the main thread, which we are locked to
		Setpgid:    true,            // the terminal's SIGINT is for us
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything is cleaned up")
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	return exitFailed
}

// runDir is the file system of the bench: it covers the host's /run, which
// has the names of ip-netns(8) and the state of other daemons.
const runDir = "/run"

// setUpMounts makes the mount namespace a private one, with its own /proc
// and /run.
func setUpMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	resolv, text := resolvConf()
	if err := unix.Mount("bench", runDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount %s: %w", runDir, err)
	}
	if strings.HasPrefix(resolv, runDir+"/") {
		if err := os.MkdirAll(filepath.Dir(resolv), 0o755); err != nil {
			return err
		}
		return os.WriteFile(resolv, text, 0o644)
	}
	return nil
}

// resolvConf returns the file that /etc/resolv.conf stands for. Programs
// get it into their namespaces, so it must not vanish with the host's /run.
func resolvConf() (path string, text []byte) {
	path, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return "", nil
	}
	text, err = os.ReadFile(path)
	if err != nil {
		return "", nil
	}
	return path, text
}
