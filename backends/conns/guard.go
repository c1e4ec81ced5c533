package conns

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/stackfs/stackfs/backends/guardian"
	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
)

// A Guardian is the process that freezes the owners of a connection and has
// the socket in repair mode meanwhile: a *guardian.Client.
type Guardian interface {
	Save(ctx context.Context, r guardian.Request) (*soccr.Conn, error)
	Hold(ctx context.Context, r guardian.Request, limit time.Duration) (Held, error)
	PID() int
	Close() error
}

// A Held is a connection that is held: a *guardian.Held.
type Held interface {
	Save(ctx context.Context) (*soccr.Conn, error)
	Resume() error
	Discard() error
	Done() <-chan struct{}
}

// A client makes a *guardian.Client a Guardian.
type client struct{ *guardian.Client }

func (c client) Hold(ctx context.Context, r guardian.Request, limit time.Duration) (Held, error) {
	h, err := c.Client.Hold(ctx, r, limit)
	if err != nil {
		return nil, err
	}
	return h, nil
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
