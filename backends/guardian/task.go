package guardian

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/freeze"
)

// Tries of a capture that fails because something moved, with all put back
// between them. A thread that does not stop costs its process half a second
// each time.
const (
	tries      = 5
	triesStuck = 2
	triesOurs  = 12
	tryPause   = 4 * time.Millisecond // and again as long each time
)

// orphanEvery is how often a hold looks whether the daemon is dead.
const orphanEvery = 250 * time.Millisecond

// run does a task.
func (g *guard) run(ctx context.Context, t *task) {
	defer t.cancel()
	err := g.do(ctx, t)
	g.mu.Lock()
	delete(g.tasks, t.ID)
	g.mu.Unlock()
	g.tell(message{Op: opEnd, ID: t.ID, Error: packError(err)}, nil)
}

func (g *guard) do(ctx context.Context, t *task) error {
	claim, err := g.claim(ctx, t.Request.Cookie)
	if err != nil {
		return err
	}
	defer g.unclaim(t.Request.Cookie, claim)
	if t.Op == opSave {
		return g.save(ctx, t)
	}
	return g.again(ctx, func() error { return g.hold(ctx, t, claim) })
}

// again calls fn until it succeeds, or fails for another reason than that
// something moved, or has failed too often.
func (g *guard) again(ctx context.Context, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		var stuck *freeze.StuckError
		limit := 0
		switch {
		case errors.Is(err, soccr.ErrChanged), errors.Is(err, errMoved):
			limit = tries
		case errors.As(err, &stuck):
			limit = triesStuck
		case errors.Is(err, errOurs): // it may be just handing it out
			limit = triesOurs
		}
		if try >= limit || ctx.Err() != nil {
			return err
		}
		g.log.Debug("once more", "err", err)
		select {
		case <-time.After(time.Duration(try) * tryPause):
		case <-ctx.Done():
		}
	}
}

func (g *guard) save(ctx context.Context, t *task) error {
	var conn *soccr.Conn
	var stood time.Duration
	err := g.again(ctx, func() error {
		c, err := g.capture(ctx, t, soccr.BlockNoWait)
		if err != nil {
			return err
		}
		conn, err = c.conn()
		err = errors.Join(err, c.release())
		stood = c.stood
		return err
	})
	if err != nil {
		return err
	}
	return g.tellSaved(t, conn, stood)
}

func (g *guard) tellSaved(t *task, conn *soccr.Conn, stood time.Duration) error {
	f, err := writeConn(conn)
	if err != nil {
		return err
	}
	defer f.Close()
	g.tell(message{Op: opSaved, ID: t.ID, Stood: stood}, f)
	return nil
}

// hold holds a connection until an order or something else ends that.
func (g *guard) hold(ctx context.Context, t *task, own *claim) (err error) {
	var limit <-chan time.Time
	c, err := g.capture(ctx, t, soccr.Block)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.release()) }()
	if t.Limit > 0 {
		timer := time.NewTimer(t.Limit)
		defer timer.Stop()
		limit = timer.C
	}
	orphan := time.NewTicker(orphanEvery)
	defer orphan.Stop()
	close(own.held)
	g.tell(message{Op: opHeld, ID: t.ID}, nil)
	for {
		select {
		case order := <-t.orders:
			over, err := g.obey(t, c, order)
			if over {
				return nil
			}
			if err != nil {
				g.tell(message{Op: opFailed, ID: t.ID, Error: packError(err)}, nil)
			}
		case <-limit:
			return errLimit
		case <-ctx.Done():
			return ctx.Err()
		case <-orphan.C:
			if g.orphaned() {
				g.end()
			}
		}
	}
}

// obey carries out an order. over tells that the hold ends.
func (g *guard) obey(t *task, c *capture, order string) (over bool, err error) {
	switch order {
	case opResume:
		return true, nil
	case opDiscard:
		err = c.socket.Discard()
		return err == nil, err
	case opAgain:
		conn, err := c.conn()
		if err == nil {
			err = g.tellSaved(t, conn, 0)
		}
		return false, err
	}
	return false, os.ErrInvalid
}
