package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// ArgvInner is the name under which the calling program is started again,
// with one argument, when it has to enter a user namespace. It is to call
// [Inner] then.
const ArgvInner = "stackfs-run"

// A Program is what to start, and where.
type Program struct {
	Stack    string // absolute path of the node
	Families uint64 // address families that go to the stack, bit n for family n
	Path     string // the file to execute
	Argv     []string
	Env      []string
	NoFilter bool // the environment has what catches the sockets
	NoNames  bool // names resolve as without us
}

// An Error says which step failed and what can be done about it.
type Error struct {
	Op   string
	Hint string // may be empty
	Err  error
}

func (e *Error) Error() string {
	s := e.Op + ": " + e.Err.Error()
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// ErrExec is wrapped by errors that mean that the program is there but
// could not be executed.
var ErrExec = errors.New("exec")

// A Node is an open stack and what it said of itself.
type Node struct {
	Info uapi.Info
	file *os.File
}

// Open opens the node at path, which is the permission check, and asks what
// it is. The caller closes the Node. It blocks for as long as the daemon
// does not answer. The error is an *Error; it wraps ENOTSUP if the node is
// no stack.
func Open(path string) (*Node, error) {
	node, err := openNode(path)
	if err != nil {
		return nil, &Error{Op: "open the stack", Err: err, Hint: openHint(err)}
	}
	info, err := nodeInfo(node)
	if err != nil {
		node.Close()
		return nil, &Error{Op: "open the stack", Err: err, Hint: openHint(err)}
	}
	return &Node{info, node}, nil
}

// Close closes the node.
func (n *Node) Close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

func openNode(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		err = unix.ENOTSUP
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		err = unix.ENODEV
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func nodeInfo(node *os.File) (uapi.Info, error) {
	var info uapi.Info
	// A node of another major version has another INFO, and so ENOTTY.
	arg := make([]byte, uapi.SizeInfo)
	err := ioctl(node, uapi.IocInfo, arg)
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL):
		err = unix.ENOTSUP
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		err = unix.ENODEV
	}
	if err != nil {
		return info, err
	}
	return info, info.UnmarshalReply(arg)
}

// Run starts the program on the stack of node. Where it can, it replaces the calling process and
// does not return; else it waits for the program and returns its exit code,
// and ends by the same signal if that was how it ended. An error means that
// the program was not started: *Error, or one that wraps ErrExec.
//
// Run must be called on the main thread, locked to the goroutine.
func (p *Program) Run(node *Node) (code int, err error) {
	nested := !p.NoFilter && underFilter() && underOurs()
	job := job{Program: *p, Nested: nested, Outer: os.Getpid()}
	if !p.NoNames && node.Info.Flags&uapi.InfoSelf == 0 {
		if node.Info.Flags&uapi.InfoEtc != 0 {
			if job.Files, err = nameFiles(p.Stack); err != nil {
				return 0, &Error{Op: "name service files of the stack", Err: err}
			}
		}
		job.Cover = true
	}
	// A run within a run is told from the outer one by its mount namespace.
	needMounts := job.Cover || nested
	if needMounts && !canAdmin() {
		return job.outer(node.file)
	}
	if needMounts {
		if err := privateMounts(); err != nil {
			return 0, &Error{Op: "make a mount namespace", Err: err, Hint: namesHint}
		}
	}
	return 0, job.become(node.file)
}

const namesHint = "--no-resolv goes without: names may then be resolved by services of the host"

func openHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT):
		return "stackfs ls shows what there is"
	case errors.Is(err, unix.EACCES):
		return "its mode, or that of a directory above, does not let you; root can chmod or chgrp it"
	case errors.Is(err, unix.ENOTSUP):
		return "it is no stack of stackfs"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		return "its daemon is gone; stackfs mount takes the mount over"
	}
	return ""
}

// A job is a Program with what was found out for it.
type job struct {
	Program
	Nested bool
	Cover  bool // cover Files over /etc and hide name services
	Files  map[string][]byte
	Node   int // descriptor of the node, for the inner process
	Outer  int // who waits for the inner process
	inner  bool
}

// become prepares the calling process and makes it the program. The order
// matters: what needs files and rights comes before the filter.
func (j *job) become(node *os.File) error {
	if j.Cover {
		if err := coverNames(j.Files); err != nil {
			return &Error{Op: "name resolution", Err: err, Hint: namesHint}
		}
	}
	if !j.NoFilter {
		if err := j.enter(node); err != nil {
			return err
		}
	}
	env := j.Env
	if !j.NoFilter {
		env = slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, uapi.EnvRun+"=") })
		env = append(env, uapi.EnvRun+"="+j.Stack)
	}
	if j.inner {
		if err := dropAll(); err != nil {
			return &Error{Op: "give up capabilities", Err: err}
		}
		if err := j.dieWithOuter(); err != nil {
			return &Error{Op: "follow the end of stackfs run", Err: err}
		}
	}
	err := syscall.Exec(j.Path, j.Argv, env)
	return fmt.Errorf("%w %s: %w", ErrExec, j.Path, err)
}

// dieWithOuter makes the kernel kill the program, but none of its children,
// when the process that stands in for it is killed: it is what users see.
func (j *job) dieWithOuter() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if os.Getppid() != j.Outer {
		return unix.ESRCH // too late
	}
	return nil
}

// enter puts the process on the stack, for good.
func (j *job) enter(node *os.File) error {
	runtime.LockOSThread()
	run := uapi.Run{ListenerFD: -1, Families: j.Families}
	if j.Nested {
		return j.joinOuter(node, run)
	}
	if !canAdmin() {
		if err := noNewPrivs(); err != nil {
			return &Error{Op: "seccomp filter", Err: err}
		}
	}
	prog, err := filter()
	if err != nil {
		return &Error{Op: "seccomp filter", Err: err}
	}
	listener, err := installFilter(prog)
	if err != nil {
		hint := "--preload --no-seccomp goes without"
		if errors.Is(err, unix.EBUSY) {
			hint = "another program supervises this one; " + hint
		}
		return &Error{Op: "seccomp filter", Err: err, Hint: hint}
	}
	defer listener.Close()
	run.ListenerFD = int32(listener.Fd())
	if _, err := ioctlRun(node, run); err != nil {
		return &Error{Op: "join the stack", Err: err, Hint: openHint(err)}
	}
	return nil
}

// underOurs tells whether a supervisor of stackfs is above. Ticket 0 is
// never good, but only a supervisor says so in another way than the kernel.
func underOurs() bool { return !errors.Is(handIn(uapi.RunDomain, 0), unix.EAFNOSUPPORT) }

// joinOuter puts the process on the stack where an outer run's listener
// catches its calls.
func (j *job) joinOuter(node *os.File, run uapi.Run) error {
	reply, err := ioctlRun(node, run)
	if err != nil {
		return &Error{Op: "join the stack", Err: err, Hint: openHint(err)}
	}
	err = handIn(uapi.RunDomain, reply.Ticket)
	if errors.Is(err, unix.ESRCH) {
		return &Error{Op: "join the stack from within another run", Err: err, Hint: "the outer run is of another mount"}
	}
	if err != nil {
		return &Error{Op: "join the stack from within another run", Err: err}
	}
	return nil
}

func ioctlRun(node *os.File, run uapi.Run) (uapi.Run, error) {
	arg, err := run.MarshalBinary()
	if err != nil {
		return run, err
	}
	if err := ioctl(node, uapi.IocRun, arg); err != nil {
		return run, err
	}
	return run, run.UnmarshalReply(arg)
}

// Inner continues in the user namespace what [Program.Run] began; arg is
// the argument that the process was started with. It returns only if it
// fails.
func Inner(arg string) error {
	fail := func(err error) error { return &Error{Op: "continue in the user namespace", Err: err} }
	fd, err := strconv.Atoi(arg)
	if err != nil {
		return fail(err)
	}
	unix.CloseOnExec(fd)
	var w wireJob
	f := os.NewFile(uintptr(fd), "job")
	err = json.NewDecoder(io.NewSectionReader(f, 0, maxJob)).Decode(&w)
	f.Close()
	if err != nil {
		return fail(err)
	}
	j := w.unwire()
	j.Env, j.inner = os.Environ(), true
	unix.CloseOnExec(j.Node)
	node := os.NewFile(uintptr(j.Node), j.Stack)
	if err := slaveMounts(); err != nil {
		return &Error{Op: "make a mount namespace", Err: err, Hint: namesHint}
	}
	return j.become(node)
}

const maxJob = 64 << 20 // bytes
