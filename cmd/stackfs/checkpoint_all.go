package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sys/unix"
)

// checkpointsAtOnce is how many connections --all saves at a time. The daemon
// serves those that come together in one pass over its sockets.
const checkpointsAtOnce = 384

// A bulk is a run of checkpoint --all.
type bulk struct {
	env   env
	stack string
	dir   string
	tick  func() // after each connection

	mu      sync.Mutex          // guards the fields below
	saved   int                 // images that are in dir
	ended   int                 // connections that ended before they were saved
	reasons []string            // why others were not saved, in the order in which they were met
	refused map[string][]string // reason -> connections
}

// checkpointAll saves every connection of a stack that filter lets through
// into files DIR/N.img.
func (e env) checkpointAll(ctx context.Context, stack, dir string, filter *connFilter) error {
	rows, err := e.readConns(ctx, stack)
	if err != nil {
		return err
	}
	rows = filter.apply(rows)
	all := len(rows)
	rows = slices.DeleteFunc(rows, func(r connRow) bool { return r.Cookie == "" || stateOf(r.State)&stSaveable == 0 })
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return &writeError{path: dir, err: reason(err)}
	}
	b := &bulk{env: e, stack: stack, dir: dir, tick: func() {}, refused: map[string][]string{}}
	if e.isTerminal(e.stderr) {
		bar := progressbar.NewOptions(len(rows), progressbar.OptionSetWriter(e.stderr), progressbar.OptionSetDescription("saving"),
			progressbar.OptionShowCount(), progressbar.OptionThrottle(progressTick), progressbar.OptionClearOnFinish())
		b.tick = func() { _ = bar.Add(1) }
		defer bar.Exit()
	}
	err = b.run(ctx, rows)
	if err == nil {
		err = syncTree(dir)
	}
	return b.report(all, len(rows), err)
}

// run saves connections, some at a time, and stops at the first error that
// would meet the others too.
func (b *bulk) run(ctx context.Context, rows []connRow) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work := make(chan connRef)
	var workers sync.WaitGroup
	for range min(checkpointsAtOnce, len(rows)) {
		workers.Go(func() {
			buf := make([]byte, 128<<10)
			for ref := range work {
				if err := b.one(ctx, ref, buf); err != nil {
					stop(err)
				}
				b.tick()
			}
		})
	}
	for _, r := range rows {
		if ctx.Err() != nil {
			break
		}
		work <- connRef{b.stack, nameConns, r.Cookie}
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

// one saves a connection. It returns only errors that are not the
// connection's.
func (b *bulk) one(ctx context.Context, ref connRef, buf []byte) error {
	if ctx.Err() != nil {
		return nil
	}
	// Not interrupted: it would leave a part of a file.
	_, err := within(context.WithoutCancel(ctx), ctlPatience*b.env.patience, func() (struct{}, error) {
		return struct{}{}, saveFile(filepath.Join(b.dir, ref.id+".img"), false, func(w io.Writer) error {
			return copyImage(w, ref, buf)
		})
	})
	var unwritten *writeError
	switch {
	case err == nil:
	case errors.As(err, &unwritten):
		return err
	default:
		err = b.env.explainCheckpoint(ctx, err, ref)
	}
	var own *connError
	if err != nil && !errors.As(err, &own) {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.saved++
	case errors.Is(err, errNoConn), errors.Is(err, syscall.ESTALE):
		b.ended++
	default:
		why := own.err.Error()
		if b.refused[why] == nil {
			b.reasons = append(b.reasons, why)
		}
		b.refused[why] = append(b.refused[why], ref.id)
	}
	return nil
}

// syncTree makes all that was written below dir durable, with one call
// instead of one for each file.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return &writeError{path: dir, err: reason(err)}
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return &writeError{path: dir, err: err}
	}
	return nil
}

// report prints what became of the connections: chosen fit the filter, of
// which saveable have a state that can be saved. err is why the run stopped,
// if it did.
func (b *bulk) report(chosen, saveable int, err error) error {
	line := fmt.Sprintf("saved %d of %d connections in %s", b.saved, saveable, b.dir)
	if b.ended > 0 {
		line += fmt.Sprintf("; %d ended meanwhile", b.ended)
	}
	if rest := chosen - saveable; rest > 0 {
		line += fmt.Sprintf("; %d in states that cannot be saved", rest)
	}
	failed := 0
	for _, why := range b.reasons {
		ids := b.refused[why]
		failed += len(ids)
		b.env.complain(&connError{someOf(ids), errors.New(why)})
	}
	fmt.Fprintln(b.env.stdout, printable(line))
	if err != nil {
		return err
	}
	switch failed {
	case 0:
		return nil
	case 1:
		return &exitStatus{exitPartly, errors.New("1 connection was not saved")}
	}
	return &exitStatus{exitPartly, fmt.Errorf("%d connections were not saved", failed)}
}

// someOf names the first of ids, and tells how many more there are.
func someOf(ids []string) string {
	const most = 5
	if len(ids) <= most {
		return strings.Join(ids, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(ids[:most], ", "), len(ids)-most)
}
