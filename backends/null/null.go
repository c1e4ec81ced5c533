// Package null is the stack without any address family: it takes
// networking away.
package null

import (
	"context"
	"os"

	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

// Null answers every request with stacknode.ErrNotSupported.
type Null struct {
	w *worker.Worker
}

var (
	_ stacknode.Backend   = (*Null)(nil)
	_ stacknode.RunServer = (*Null)(nil)
	_ stacknode.Counter   = (*Null)(nil)
)

// New returns a null stack.
func New(_ stacknode.Spec, env worker.Env) (*Null, error) {
	w, err := worker.New(worker.Config{Env: env})
	if err != nil {
		return nil, err
	}
	return &Null{w}, nil
}

// Socket returns stacknode.ErrNotSupported.
func (n *Null) Socket(context.Context, *stacknode.Caller, int, int, int) (*os.File, error) {
	return nil, stacknode.ErrNotSupported
}

// Families returns the empty set.
func (n *Null) Families() stacknode.FamilySet { return 0 }

// ServeRun refuses the sockets of a process tree.
func (n *Null) ServeRun(run *stacknode.Run) error { return n.w.ServeRun(run) }

// Counts returns the number of channels (none) and of runs.
func (n *Null) Counts() (channels, runs int) { return n.w.Counts() }

// Close ends the runs.
func (n *Null) Close() error { return n.w.Close() }
