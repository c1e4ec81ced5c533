package fast

import (
	"context"
	"fmt"
	"time"
)

const (
	// watchEvery is how often the queues of the listeners are looked at.
	watchEvery = 250 * time.Millisecond
	// stuckLooks is in how many looks one after another a worker must have
	// left its queue alone to be taken for stuck.
	stuckLooks = 3
)

// A watch looks for workers that accept nothing, and takes their listeners
// away: the kernel moves what waits there to the other members of the group.
// There is one while there are groups.
type watch struct {
	stop context.CancelFunc
	done chan struct{}
}

func startWatch(f *Fast) *watch {
	ctx, stop := context.WithCancel(context.Background())
	w := &watch{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f.look(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	return w
}

// close ends the watch and waits for it.
func (w *watch) close() {
	w.stop()
	<-w.done
}

// A suspect is a clone whose queue was not empty at the last look.
type suspect struct {
	accepted uint64 // by its worker, as that says
	looks    int
}

// look compares the queues with those of the last look.
func (f *Fast) look(ctx context.Context) {
	groups := f.all()
	busy := false
	for _, g := range groups {
		busy = busy || g.page.headView().workers > 0
	}
	if !busy {
		return
	}
	queues, err := f.Stack.Listening(ctx)
	if err != nil {
		f.log.Debug("look at the queues of listeners", "err", err)
		return
	}
	for _, g := range groups {
		suspects := map[uint64]bool{}
		for _, s := range g.page.slotViews() {
			n := queues[s.clone]
			// The page is written by anybody: a clone is looked at once.
			if n == 0 || suspects[s.clone] || !g.has(s.clone) {
				continue
			}
			if suspects[s.clone] = true; g.suspect(s) {
				delete(suspects, s.clone)
				f.end(ctx, g, s, n)
			}
		}
		g.clear(suspects)
	}
}

// end takes the listener of a stuck worker away.
func (f *Fast) end(ctx context.Context, g *group, s slotView, waiting uint32) {
	if err := f.Stack.EndListener(ctx, s.clone); err != nil {
		f.log.Warn("take a listener from a worker that accepts nothing", "address", g.address(), "cpu", s.cpu, "err", err)
		return
	}
	f.log.Info("a worker accepts nothing: its listener was taken away", "address", g.address(), "cpu", s.cpu, "tid", s.tid, "waiting", waiting)
	g.note(fmt.Sprintf("cpu %d: the worker accepted nothing, its listener was taken away at %s", s.cpu, time.Now().UTC().Format(time.RFC3339)))
}
