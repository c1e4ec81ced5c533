package netns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/stackfs/stackfs/backends/conns"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

// NamedDir is where ip-netns(8) keeps the namespaces that have a name.
const NamedDir = "/run/netns"

// An Env is what all netns stacks of a daemon share.
type Env struct {
	// RunDir is the daemon's directory for what outlives it, such as
	// /run/stackfs/KEY. It is made when it is needed.
	RunDir string
	Log    *slog.Logger
	Worker worker.Env
	Conns  conns.Env

	// Gone is called, on a goroutine of its own and at most once, with the
	// name of a stack whose process (spec.PID) has ended. The daemon drops
	// the stack. Nil: such a stack stays until it is removed.
	Gone func(stack string)
}

// A Netns is a stack in a network namespace that somebody else made and
// that stackfs changed nothing in.
type Netns struct {
	*conns.Stack // nil while it is being made
	spec         stacknode.Spec
	env          Env
	log          *slog.Logger
	w            *worker.Worker
	made         bool // the namespace was made with the stack

	changed bool      // there are steps to undo
	uplink  string    // "eth0 (host: sf-lab)", empty without one
	pid     *pidWatch // nil unless the namespace is that of a process

	closing  sync.Once
	closeErr error
}

var (
	_ stacknode.Backend       = (*Netns)(nil)
	_ stacknode.ChannelServer = (*Netns)(nil)
	_ stacknode.RunServer     = (*Netns)(nil)
	_ stacknode.Drainer       = (*Netns)(nil)
	_ stacknode.NetNamespace  = (*Netns)(nil)
	_ stacknode.Busier        = (*Netns)(nil)
	_ stacknode.Describer     = (*Netns)(nil)
	_ stacknode.NameService   = (*Netns)(nil)
	_ stacknode.Checkpointer  = (*Netns)(nil)
)

// New finds or makes the namespace of spec, brings it into the state that
// the options ask for, and returns its backend: a stacknode.Destroyer if
// something was made. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN. When it
// fails, what it had done is undone in reverse order.
func New(spec stacknode.Spec, env Env) (_ stacknode.Backend, err error) {
	if err := Check(spec); err != nil {
		return nil, err
	}
	if _, err := resolvConf(spec.Netns); err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	n := &Netns{spec: spec, env: env, log: env.Log.With("stack", spec.Name), made: makes(spec.Netns)}

	f, unmake, err := n.open()
	if err != nil {
		return nil, err
	}
	defer f.Close() // the worker has its own
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close(), unmake())
		}
	}()
	cfg := worker.Config{NetNS: f, Families: stacknode.InternetFamilies, Grants: spec.Grants, Env: env.Worker}
	if n.w, err = worker.New(cfg); err != nil {
		return nil, err
	}
	if err := n.configure(f); err != nil {
		return nil, err
	}
	n.Stack = conns.New(conns.Config{
		Stack: spec.Name, Worker: n.w, Grants: spec.Grants, RestoreFrom: spec.Conns.RestoreFrom, Env: env.Conns,
	})
	if n.pid != nil && env.Gone != nil {
		n.pid.start(func() { env.Gone(spec.Name) })
	}
	if n.made || n.changed {
		return owner{n}, nil
	}
	return n, nil
}

// makes tells whether the namespace is made with the stack.
func makes(s stacknode.NetnsSpec) bool { return s.Name == "" && s.PID == 0 && s.Path == "" }

// open returns the namespace. unmake takes back what open made.
func (n *Netns) open() (f *os.File, unmake func() error, err error) {
	unmake = func() error { return nil }
	switch s := n.spec.Netns; {
	case s.Name != "":
		f, err = openNamed(NamedDir, s.Name)
	case s.PID != 0:
		f, n.pid, err = openPID(s.PID)
	case s.Path != "":
		f, err = openPath(s.Path)
	default:
		var fresh bool
		if f, fresh, err = adoptOrMake(n.env.RunDir, n.spec.Name); fresh {
			unmake = func() error { return unpin(n.env.RunDir, n.spec.Name) }
		}
	}
	return f, unmake, err
}

// configure does the steps that the options ask for.
func (n *Netns) configure(f *os.File) error {
	sp := &space{ns: f, do: n.w.Do}
	defer sp.Close()
	id, _ := n.w.NetNS()
	j, err := loadJournal(n.env.RunDir, n.spec, id)
	if err != nil {
		return err
	}
	if err := applySteps(sp, j, plan(n.spec, n.env.RunDir)); err != nil {
		return err
	}
	n.changed = len(j.Steps) > 0
	n.uplink = j.describeUplink()
	return nil
}

// Socket implements stacknode.Backend.
func (n *Netns) Socket(ctx context.Context, caller *stacknode.Caller, domain, typ, proto int) (*os.File, error) {
	return n.w.Socket(ctx, caller, domain, typ, proto)
}

// ServeChannel implements stacknode.ChannelServer.
func (n *Netns) ServeChannel(conn *os.File, caller *stacknode.Caller, release func()) error {
	return n.w.ServeChannel(conn, caller, release)
}

// ServeRun implements stacknode.RunServer.
func (n *Netns) ServeRun(run *stacknode.Run) error { return n.w.ServeRun(run) }

// Drain implements stacknode.Drainer.
func (n *Netns) Drain(on bool) { n.w.Drain(on) }

// Counts implements stacknode.Counter.
func (n *Netns) Counts() (channels, runs int) { return n.w.Counts() }

// Families implements stacknode.Backend.
func (n *Netns) Families() stacknode.FamilySet { return stacknode.InternetFamilies }

// NetNS implements stacknode.NetNamespace.
func (n *Netns) NetNS() (stacknode.NSID, uint64) { return n.w.NetNS() }

// Describe implements stacknode.Describer.
func (n *Netns) Describe() []stacknode.Line {
	lines := []stacknode.Line{{Key: "namespace", Value: n.where()}}
	if n.uplink != "" {
		lines = append(lines, stacknode.Line{Key: "uplink", Value: n.uplink})
	}
	return append(lines, n.Stack.Describe()...)
}

// where says where the namespace is from, in the words of the options.
func (n *Netns) where() string {
	switch s := n.spec.Netns; {
	case s.Name != "":
		return "name " + s.Name
	case s.PID != 0:
		return fmt.Sprintf("pid %d", s.PID)
	case s.Path != "":
		return "path " + s.Path
	}
	return "made with the stack"
}

// Close implements stacknode.Backend: no descriptor and no thread of ours
// is left in the namespace when it returns. What was made stays.
func (n *Netns) Close() error {
	n.closing.Do(func() {
		if n.pid != nil {
			n.pid.Close()
		}
		if n.Stack != nil {
			n.closeErr = n.Stack.Close()
		}
		if n.w != nil {
			n.closeErr = errors.Join(n.closeErr, n.w.Close())
		}
	})
	return n.closeErr
}
