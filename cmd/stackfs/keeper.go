package main

import (
	"log/slog"
	"log/syslog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/keeper"
)

// spawnKeeper returns the function that starts the keeper of a mount. It is
// in a session of its own, so that what ends the daemon does not end it.
func spawnKeeper(runDir string) func(control, slots *os.File) (func() error, error) {
	return func(control, slots *os.File) (func() error, error) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{argvKeeper, runDir}
		cmd.Dir = "/"
		cmd.Env = []string{}
		cmd.ExtraFiles = []*os.File{control, slots}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		// go-fuse opens /dev/fuse without O_CLOEXEC, and a keeper that is
		// started later than the mount would hold that: the kernel would
		// not see the daemon die, and the mount would hang.
		if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
			return nil, os.NewSyscallError("close_range", err)
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		return cmd.Wait, nil
	}
}

// keepMain is the keeper's main function: descriptors 3 and 4 are from the
// daemon.
func keepMain(e env, runDir string) int {
	log := slog.New(slog.DiscardHandler)
	if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "stackfs-keeper"); err == nil {
		log = slog.New(slog.NewTextHandler(w, nil))
	}
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	err := dropCapabilities(keeperCaps)
	if err == nil {
		err = keeper.Main(os.NewFile(3, "control"), os.NewFile(4, "slots"), log)
		tidyRunDir(runDir)
	}
	if err != nil {
		log.Error("keeper", "err", err)
	}
	return e.report(err)
}

// tidyRunDir removes the directory of a mount whose daemon died, unless it
// holds something for the next one, or the next one is there.
func tidyRunDir(runDir string) {
	if _, err := os.Stat(filepath.Join(runDir, stateName)); err == nil {
		return
	}
	f, err := os.OpenFile(filepath.Join(runDir, lockName), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		removeRunDir(runDir)
	}
}
