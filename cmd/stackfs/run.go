package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/launch"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// runProgram runs a program on a stack and returns its exit code. With the
// rights to do so this process becomes the program.
func runProgram(_ context.Context, e env, opts runOptions) int {
	// Whoever waits in the kernel for a stuck daemon cannot be interrupted,
	// but another thread can end the process. To ask on that one would cost
	// every start two switches between threads.
	stuck := time.AfterFunc(e.patience, func() {
		mounts, _ := e.mounts() // without the list the hint is less exact
		err := fmt.Errorf("%w within %v", errNoAnswer, e.patience)
		e.exit(e.runFailed(opts, detachHint(err, mountAbove(mounts, opts.Stack))))
	})
	node, err := e.openNode(opts.Stack)
	stuck.Stop()
	if err != nil {
		return e.runFailed(opts, err)
	}
	defer node.Close()
	e.printFamilies(opts, stacknode.FamilySet(node.Info.Families))
	if len(opts.Argv) == 0 {
		return exitOK
	}
	path, err := exec.LookPath(opts.Argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		e.complain(fmt.Errorf("%s: %w", opts.Argv[0], plainReason(err)))
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return exitNoProgram
		}
		return exitNotRunnable
	}
	p := launch.Program{
		Stack:    opts.Stack,
		Families: uint64(opts.Families),
		Path:     path,
		Argv:     opts.Argv,
		Env:      os.Environ(),
		NoFilter: opts.NoSeccomp,
		NoNames:  opts.NoResolv,
	}
	if opts.Preload {
		if code, err := preload(&p, opts, stacknode.FamilySet(node.Info.Families)); err != nil {
			e.complain(err)
			return code
		}
	}
	if node.Info.Kind == uapi.KindFast {
		if err := preloadFast(&p, opts); err != nil {
			fmt.Fprintf(e.stderr, "stackfs: %v; the program's listeners have no clones\n", err)
		}
	}
	code, err := p.Run(node)
	if err != nil {
		return e.runFailed(opts, err)
	}
	return code
}

// runInner continues a run in the user namespace that it needed.
func runInner(e env, arg string) int {
	return e.runFailed(runOptions{}, launch.Inner(arg))
}

// runFailed prints why the program was not started and returns the exit
// code, as env(1) chooses it.
func (e env) runFailed(opts runOptions, err error) int {
	if opts.Stack != "" {
		err = fmt.Errorf("%s: %w", opts.Stack, err)
	}
	e.complain(err)
	switch {
	case !errors.Is(err, launch.ErrExec):
		return exitRunFailed
	case errors.Is(err, fs.ErrNotExist):
		return exitNoProgram
	}
	return exitNotRunnable
}

// plainReason is the errno in err, without the names around it.
func plainReason(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	if errors.Is(err, exec.ErrNotFound) {
		return syscall.ENOENT
	}
	return err
}

// printFamilies prints what the stack has (-s) and what is set (-v).
func (e env) printFamilies(opts runOptions, has stacknode.FamilySet) {
	if opts.Supported && has != 0 {
		fmt.Fprintf(e.stdout, "%s\n", strings.Join(has.Names(), "\n"))
	}
	if opts.Verbose {
		fmt.Fprintf(e.stderr, "stackfs: %s: %s\n", opts.Stack, strings.Join((has&opts.Families).Names(), " "))
	}
}
