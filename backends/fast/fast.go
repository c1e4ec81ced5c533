package fast

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/conns"
	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

// groupsPerUser is how many listeners of a user may have clones at a time.
const groupsPerUser = 64

// Fast is the stack of the network namespace that the daemon is in, whose
// listeners may have clones.
type Fast struct {
	*worker.Worker
	*conns.Stack
	spec    stacknode.Spec
	log     *slog.Logger
	migrate migrator
	tags    *conns.Tags // nil: none
	quota   *stacknode.Quota

	untagged atomic.Bool // the log has that sockets are not tagged
	kept     sync.Once   // the tags, by the program of the groups
	serving  sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	groups map[*group]bool
	watch  *watch // nil: there are no groups
	closed bool
}

var (
	_ stacknode.Backend       = (*Fast)(nil)
	_ stacknode.OwnNamespace  = (*Fast)(nil)
	_ stacknode.ChannelServer = (*Fast)(nil)
	_ stacknode.RunServer     = (*Fast)(nil)
	_ stacknode.Drainer       = (*Fast)(nil)
	_ stacknode.Counter       = (*Fast)(nil)
	_ stacknode.Checkpointer  = (*Fast)(nil)
	_ stacknode.Describer     = (*Fast)(nil)
	_ stacknode.Spawner       = (*Fast)(nil)
	_ stacknode.Refuser       = (*Fast)(nil)
	_ stacknode.Maker         = (*Fast)(nil)
)

// New returns the fast stack of the daemon's namespace. Unless spec.Foreign,
// it serves only callers of that same namespace, as the stack kernel does.
func New(spec stacknode.Spec, env worker.Env, cenv conns.Env) (*Fast, error) {
	log := cenv.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &Fast{
		spec: spec, log: log.With("stack", spec.Name), tags: cenv.Tags,
		quota: stacknode.NewQuota(groupsPerUser), groups: map[*group]bool{},
	}
	w, err := worker.New(worker.Config{
		Families: stacknode.InternetFamilies,
		Grants:   spec.Grants,
		OnlySelf: !spec.Foreign,
		Makes:    f.Makes,
		Made:     f.tag,
		NoMPTCP:  !spec.Fast.MPTCP,
		Env:      env,
	})
	if err != nil {
		return nil, err
	}
	f.Worker = w
	f.Stack = conns.New(conns.Config{
		Stack: spec.Name, Worker: w, Grants: spec.Grants, RestoreFrom: spec.Conns.RestoreFrom,
		OnlySelf: !spec.Foreign, Tagged: conns.OnlyTagged, Env: cenv,
	})
	f.migrate.open(spec.Fast.MigrateSysctl, w.Do, f.log)
	if f.tags != nil {
		if err := f.tags.Adopt(); err != nil {
			f.log.Debug("connections of an earlier daemon are listed as the kernel's", "err", err)
		}
	}
	return f, nil
}

// Foreign tells whether callers of other namespaces are served.
func (f *Fast) Foreign() bool { return f.spec.Foreign }

// Refuses tells why a caller may not make such a socket himself, where the
// stack is his own namespace. MPTCP listeners cannot be part of a group; a
// program that asks for MPTCP takes TCP when it is not there.
func (f *Fast) Refuses(domain, typ, proto int) error {
	if proto == unix.IPPROTO_MPTCP && !f.spec.Fast.MPTCP {
		return unix.EPROTONOSUPPORT
	}
	return nil
}

// Makes implements stacknode.Maker: a TCP socket that the caller makes itself
// has no tag. Where connections that are opened are to have it, the daemon
// makes the socket, if that passes the same cgroup programs.
func (f *Fast) Makes(tid, domain, typ, proto int) bool {
	tcp := (domain == unix.AF_INET || domain == unix.AF_INET6) && typ&sockTypeMask == unix.SOCK_STREAM && (proto == 0 || proto == unix.IPPROTO_TCP)
	return f.spec.Fast.TagOpened && tcp && f.tags != nil && f.tags.Check() == nil && checkCgroup(tid) == nil
}

// sockTypeMask is SOCK_TYPE_MASK of <linux/net.h>.
const sockTypeMask = 0xf

// Close implements stacknode.Backend. The listeners and their clones go on.
func (f *Fast) Close() error {
	f.mu.Lock()
	f.closed = true
	groups, watch := f.groups, f.watch
	f.groups, f.watch = nil, nil
	f.mu.Unlock()
	for g := range groups {
		g.close()
	}
	if watch != nil {
		watch.close()
	}
	f.serving.Wait()
	return errors.Join(f.migrate.close(), f.Stack.Close(), f.Worker.Close())
}

// tag makes a socket one of the stack's: else its connections are listed as
// those of the stack kernel.
func (f *Fast) tag(fd int) {
	if f.tags == nil {
		return
	}
	if err := f.tags.Put(fd); err != nil {
		if !f.untagged.Swap(true) {
			f.log.Warn("connections of the fast stack are listed as the kernel's", "err", err)
		}
		return
	}
	f.kept.Do(func() {
		if err := f.migrate.keep(f.tags); err != nil {
			f.log.Debug("after a restart connections of the fast stack are listed as the kernel's", "err", err)
		}
	})
}

// add serves g, and makes it one of the groups that are watched.
func (f *Fast) add(g *group) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return stacknode.ErrClosed
	}
	f.groups[g] = true
	if f.watch == nil {
		f.watch = startWatch(f)
	}
	f.serving.Go(g.serve)
	return nil
}

// drop forgets a group that has ended.
func (f *Fast) drop(g *group) {
	f.mu.Lock()
	delete(f.groups, g)
	var watch *watch
	if len(f.groups) == 0 {
		watch, f.watch = f.watch, nil
	}
	f.mu.Unlock()
	if watch != nil {
		watch.close()
	}
}

// all returns the groups there are.
func (f *Fast) all() []*group {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]*group, 0, len(f.groups))
	for g := range f.groups {
		list = append(list, g)
	}
	return list
}
