package main

import (
	"log/slog"
	"log/syslog"
	"math"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/guardian"
)

// startGuardian starts the process that holds the owners of connections.
func (s *server) startGuardian() (*guardian.Client, error) {
	return guardian.Start(s.log, spawnGuardian)
}

// spawnGuardian starts a guardian process. It is in a session of its own, so
// that what ends the daemon does not end it.
func spawnGuardian(control *os.File) (*os.Process, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{argvGuardian}
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{control}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// As for the keeper: it must not hold the daemon's /dev/fuse.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("close_range", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Process, nil
}

// guardMain is the guardian's main function: descriptor 3 is from the daemon.
func guardMain(e env) int {
	log := slog.New(slog.DiscardHandler)
	if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "stackfs-guardian"); err == nil {
		log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	syscall.CloseOnExec(3)
	err := dropCapabilities(guardianCaps)
	if err == nil {
		err = guardian.Main(os.NewFile(3, "control"), log)
	}
	if err != nil {
		log.Error("guardian", "err", err)
	}
	return e.report(err)
}
