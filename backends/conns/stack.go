package conns

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/stacknode"
)

// An Env is what the stacks of a daemon share. With the zero Env connections
// are seen and ended, but not saved.
type Env struct {
	Log     *slog.Logger
	Engine  *Engine
	Seals   *Seals
	Holders *Holders
	Tags    *Tags  // nil: stacks in one namespace have the same sockets
	Version string // of the program, for the images
}

// A Config says whose connections a Stack has.
type Config struct {
	Stack       string // name
	Worker      *worker.Worker
	Grants      []stacknode.Grant
	RestoreFrom []string
	// OnlySelf refuses callers of other network namespaces.
	OnlySelf bool
	Tagged   Tagged // which sockets of the namespace are the stack's
	Env      Env
}

// A Stack is the TCP connections of one stack. It uses the worker of its
// Config, which it does not own.
type Stack struct {
	cfg    Config
	env    Env
	log    *slog.Logger
	tables *tables

	unsealed atomic.Bool // the log has that images are not sealed

	mu     sync.Mutex // guards the fields below
	paused map[uint64]*pause
	closed bool
}

var (
	_ stacknode.Checkpointer = (*Stack)(nil)
	_ stacknode.Describer    = (*Stack)(nil)
)

// New returns the connections of a stack.
func New(cfg Config) *Stack {
	env := cfg.Env
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	if env.Engine == nil {
		env.Engine = NewEngine(ModeOff, env.Log, nil)
	}
	if env.Holders == nil {
		env.Holders = NewHolders()
	}
	tables := newTables(cfg.Worker.Do)
	if env.Tags != nil {
		tables.tags, tables.want = env.Tags, cfg.Tagged
	}
	return &Stack{cfg: cfg, env: env, log: env.Log.With("stack", cfg.Stack), tables: tables, paused: map[uint64]*pause{}}
}

// Close resumes what is paused. Close it before the worker.
func (s *Stack) Close() error {
	s.mu.Lock()
	s.closed = true
	list := make([]*pause, 0, len(s.paused))
	for _, p := range s.paused {
		if p.held != nil { // else Pause sees that the stack is closed
			list = append(list, p)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, p := range list {
		errs = append(errs, p.end())
	}
	s.tables.close()
	return errors.Join(errs...)
}

// Describe implements stacknode.Describer: how connections are saved.
func (s *Stack) Describe() []stacknode.Line {
	return []stacknode.Line{{Key: "checkpoint", Value: s.env.Engine.Describe()}}
}

// Conns implements stacknode.ConnTable.
func (s *Stack) Conns(ctx context.Context) ([]stacknode.Conn, error) {
	tab, err := s.tables.now(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]stacknode.Conn, len(tab.entries))
	for i := range tab.entries {
		list[i] = tab.entries[i].conn(tab.links)
	}
	return list, nil
}

// Conn implements stacknode.ConnTable.
func (s *Stack) Conn(ctx context.Context, cookie uint64) (*stacknode.Conn, error) {
	sock, err := s.tables.find(ctx, cookie)
	if err != nil {
		return nil, err
	}
	c := sock.conn(sock.links)
	return &c, nil
}
