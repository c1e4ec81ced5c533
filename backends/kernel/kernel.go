// Package kernel is the host's own network stack as a backend.
package kernel

import (
	"errors"

	"github.com/stackfs/stackfs/backends/conns"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

// Kernel is the stack of the network namespace that the daemon is in.
type Kernel struct {
	*worker.Worker
	*conns.Stack
	foreign bool
}

var (
	_ stacknode.Backend       = (*Kernel)(nil)
	_ stacknode.OwnNamespace  = (*Kernel)(nil)
	_ stacknode.ChannelServer = (*Kernel)(nil)
	_ stacknode.RunServer     = (*Kernel)(nil)
	_ stacknode.Drainer       = (*Kernel)(nil)
	_ stacknode.Counter       = (*Kernel)(nil)
	_ stacknode.Checkpointer  = (*Kernel)(nil)
	_ stacknode.Describer     = (*Kernel)(nil)
)

// New returns the stack of the daemon's namespace. Unless spec.Foreign, it
// serves only callers of that same namespace: otherwise it would be a way
// out of a network sandbox.
func New(spec stacknode.Spec, env worker.Env, cenv conns.Env) (*Kernel, error) {
	w, err := worker.New(worker.Config{
		Families: stacknode.InternetFamilies,
		Grants:   spec.Grants,
		OnlySelf: !spec.Foreign,
		Env:      env,
	})
	if err != nil {
		return nil, err
	}
	c := conns.New(conns.Config{
		Stack: spec.Name, Worker: w, Grants: spec.Grants, RestoreFrom: spec.Conns.RestoreFrom,
		OnlySelf: !spec.Foreign, Tagged: conns.OnlyUntagged, Env: cenv,
	})
	return &Kernel{Worker: w, Stack: c, foreign: spec.Foreign}, nil
}

// Foreign tells whether callers of other namespaces are served.
func (k *Kernel) Foreign() bool { return k.foreign }

// Close implements stacknode.Backend.
func (k *Kernel) Close() error { return errors.Join(k.Stack.Close(), k.Worker.Close()) }
