// Package backends knows every kind of stack.
package backends

import (
	"fmt"
	"syscall"

	"github.com/stackfs/stackfs/backends/conns"
	"github.com/stackfs/stackfs/backends/fast"
	"github.com/stackfs/stackfs/backends/kernel"
	"github.com/stackfs/stackfs/backends/netns"
	"github.com/stackfs/stackfs/backends/null"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

// An Env is what backends get from the daemon.
type Env struct {
	Worker worker.Env
	Netns  netns.Env
	Conns  conns.Env
}

var constructors = map[stacknode.Kind]func(stacknode.Spec, Env) (stacknode.Backend, error){
	stacknode.KindKernel: func(s stacknode.Spec, e Env) (stacknode.Backend, error) { return kernel.New(s, e.Worker, e.Conns) },
	stacknode.KindFast:   func(s stacknode.Spec, e Env) (stacknode.Backend, error) { return fast.New(s, e.Worker, e.Conns) },
	stacknode.KindNull:   func(s stacknode.Spec, e Env) (stacknode.Backend, error) { return null.New(s, e.Worker) },
	stacknode.KindNetns:  func(s stacknode.Spec, e Env) (stacknode.Backend, error) { return netns.New(s, e.Netns) },
}

// Opener returns the function by which a registry makes backends.
func Opener(env Env) func(stacknode.Spec) (stacknode.Backend, error) {
	return func(spec stacknode.Spec) (stacknode.Backend, error) {
		open := constructors[spec.Kind]
		if open == nil {
			return nil, fmt.Errorf("no backend is called %q: %w", spec.Kind, syscall.EINVAL)
		}
		return open(spec, env)
	}
}
