// Command stackfs mounts a tree of networking stacks and talks to it.
// stackfs(8) describes the commands, stackfs.toml(5) the configuration.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/stackfs/stackfs/stacknode/launch"
	"github.com/stackfs/stackfs/stacknode/msocket"
)

// version is the release that this source is or becomes.
const version = "0.1.0"

// An env is everything that a command takes from the process it runs in.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	isTerminal     func(io.Writer) bool

	users     userLookup
	mountinfo string        // the file that lists the mounts: proc(5)
	proc      string        // where processes are found: procfs
	config    string        // the configuration that mount and check take unasked
	patience  time.Duration // how long a daemon may take to answer a read

	openCtl func(path string) (io.ReadWriteCloser, error) // the file ctl of a mount
	detach  func(dir string) error                        // umount2(2) of a mount without daemon

	openNode func(path string) (*launch.Node, error) // a stack, and what it says that it is
	exit     func(code int)                          // os.Exit, for a thread that is not stuck

	// restoreSocket makes a socket on a stack from an image; become makes
	// this process a program that has it.
	restoreSocket func(ctx context.Context, stack string, image io.Reader) (*os.File, error)
	become        func(sock *os.File, inetd bool, path string, argv []string) error
}

func init() {
	// The first thread stays with the main goroutine, so that no worker
	// moves the thread group leader into another namespace and
	// /proc/PID/ns/net stays the host's.
	runtime.LockOSThread()
}

func main() {
	nameProcess()
	os.Exit(run(context.Background(), processEnv(), os.Args))
}

func processEnv() env {
	return env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv:     os.Getenv,
		isTerminal: isTerminal,
		users:      systemUsers{},
		mountinfo:  "/proc/self/mountinfo",
		proc:       "/proc",
		config:     defaultConfig,
		patience:   5 * time.Second,
		openCtl:    openCtl,
		detach:     detachMount,
		openNode:   launch.Open,
		exit:       os.Exit,

		restoreSocket: msocket.Restore,
		become:        become,
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// run executes one command line, args[0] included, and returns the exit
// code. Everything it reports as an error is one line or more on stderr,
// each beginning with the name of the program.
func run(ctx context.Context, e env, args []string) int {
	if len(args) == 0 {
		args = []string{"stackfs"}
	}
	switch {
	case args[0] == argvServe && len(args) == 2:
		return serveInBackground(e, args[1])
	case args[0] == argvKeeper && len(args) == 2:
		return keepMain(e, args[1])
	case args[0] == argvGuardian && len(args) == 1:
		return guardMain(e)
	case args[0] == launch.ArgvInner && len(args) == 2:
		return runInner(e, args[1])
	}
	if isMountHelper(args[0]) {
		return e.report(runMountHelper(ctx, e, args))
	}
	root := newRoot(e)
	root.SetArgs(args[1:])
	return e.report(root.ExecuteContext(ctx))
}

// report prints err and returns its exit code.
func (e env) report(err error) int {
	if err == nil {
		return exitOK
	}
	var status *exitStatus
	if errors.As(err, &status) {
		if status.err != nil {
			e.complain(status.err)
		}
		return status.code
	}
	e.complain(err)
	return exitCode(err)
}

// complain prints err to stderr; a joined error becomes several lines.
func (e env) complain(err error) {
	paint := e.painter(e.stderr)
	for _, line := range strings.Split(strings.TrimRight(err.Error(), "\n"), "\n") {
		fmt.Fprintf(e.stderr, "%s %s\n", paint.red("stackfs:"), printable(line))
	}
}
