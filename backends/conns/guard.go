package conns

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// A Request says which connection is asked for, and for whom: who may not
// trace a process that holds it gets a *stacknode.HolderError.
type Request struct {
	Cookie, Inode uint64
	Tracer        peer.Tracer
}

// A Guardian is the process that freezes the owners of a connection and has
// the socket in repair mode meanwhile. When the daemon dies it lets go.
type Guardian interface {
	// Save saves a connection, which then goes on.
	Save(ctx context.Context, r Request) (*soccr.Conn, error)
	// Hold freezes the owners of a connection until limit (0: none) is over
	// or one of the methods of Held is called.
	Hold(ctx context.Context, r Request, limit time.Duration) (Held, error)
	// PID returns that of the process, 0 if there is none.
	PID() int
	// Close ends the process, which resumes what it holds.
	Close() error
}

// A Held is a connection that is held.
type Held interface {
	Save(ctx context.Context) (*soccr.Conn, error)
	// Resume lets the connection go on.
	Resume() error
	// Discard ends it, which the peer does not see.
	Discard() error
	// Done is closed when it is held no longer, for whatever reason.
	Done() <-chan struct{}
}

// A guard starts the guardian when it is needed.
type guard struct {
	start func() (Guardian, error)

	mu      sync.Mutex // guards the fields below
	started Guardian   // nil: not yet
	closed  bool
}

func (g *guard) client() (Guardian, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, stacknode.ErrClosed
	}
	if g.started == nil {
		c, err := g.start()
		if err != nil {
			return nil, fmt.Errorf("start the guardian: %w", err)
		}
		g.started = c
	}
	return g.started, nil
}

func (g *guard) pid() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started == nil {
		return 0
	}
	return g.started.PID()
}

func (g *guard) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.started == nil {
		return nil
	}
	err := g.started.Close()
	g.started = nil
	return err
}
