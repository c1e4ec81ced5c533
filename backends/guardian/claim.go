package guardian

import (
	"context"

	"github.com/stackfs/stackfs/stacknode"
)

// A claim is a task's right to a connection.
type claim struct {
	held chan struct{} // closed when it is going to last
	over chan struct{} // closed when it is given up
}

// claim waits until no other task has the connection. Returns
// stacknode.ErrPaused if one holds it.
func (g *guard) claim(ctx context.Context, cookie uint64) (*claim, error) {
	for {
		g.mu.Lock()
		other := g.claims[cookie]
		if other == nil {
			c := &claim{held: make(chan struct{}), over: make(chan struct{})}
			g.claims[cookie] = c
			g.mu.Unlock()
			return c, nil
		}
		g.mu.Unlock()
		select {
		case <-other.over:
		case <-other.held:
			return nil, stacknode.ErrPaused
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (g *guard) unclaim(cookie uint64, c *claim) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.claims, cookie)
	close(c.over)
}
