package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The daemon and its keeper are this program under other names.
const (
	argvServe    = "stackfs-serve"
	argvKeeper   = "stackfs-keeper"
	argvGuardian = "stackfs-guardian"
)

// readyWord is what the daemon writes to its parent once it serves.
const readyWord = "ready"

// serveMount mounts a tree of stacks and serves it. In the background it
// returns when the tree can be used; in the foreground, when it is
// unmounted.
func serveMount(ctx context.Context, e env, opts mountOptions) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("mount %s: only root can mount stacks: %w", opts.Dir, syscall.EPERM)
	}
	if err := checkMountPoint(opts.Dir); err != nil {
		return err
	}
	if opts.Foreground {
		return serve(ctx, e, opts, func() {})
	}
	arg, err := json.Marshal(opts)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{argvServe, string(arg)}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	text, err := io.ReadAll(bufio.NewReader(r))
	if err == nil && strings.TrimSpace(string(text)) == readyWord {
		return cmd.Process.Release()
	}
	werr := cmd.Wait()
	return startError(text, werr)
}

// A startReport is how the daemon tells its parent why it did not start.
type startReport struct {
	Message string
	Code    int
}

func startError(text []byte, werr error) error {
	var report startReport
	if json.Unmarshal(text, &report) != nil || report.Message == "" {
		return fmt.Errorf("the daemon ended before it was ready: %w", werr)
	}
	return &exitStatus{report.Code, errors.New(report.Message)}
}

// serveInBackground is the daemon's main function: descriptor 3 is where
// its parent waits.
func serveInBackground(e env, arg string) int {
	ready := os.NewFile(3, "ready")
	var opts mountOptions
	err := json.Unmarshal([]byte(arg), &opts)
	if err == nil {
		unix.CloseOnExec(3)
		err = serve(context.Background(), e, opts, func() {
			fmt.Fprintln(ready, readyWord)
			ready.Close()
		})
	}
	if err == nil {
		return exitOK
	}
	report, merr := json.Marshal(startReport{err.Error(), exitCode(err)})
	if merr == nil {
		_, _ = ready.Write(report)
	}
	return exitCode(err)
}

func checkMountPoint(dir string) error {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%s: no such directory (mkdir -p %s makes it): %w", dir, dir, err)
	case errors.Is(err, unix.ENOTCONN):
		return nil // a dead mount; the daemon takes it over
	case err != nil:
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err := fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			err = fmt.Errorf("%w (a configuration goes behind -c: stackfs mount -c %s DIR)", err, dir)
		}
		return err
	}
	return nil
}
