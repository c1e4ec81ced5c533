package guardian

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stackfs/stackfs/soccr"
)

// A Held is a connection that is held: its owner stands still, its packets
// are dropped. Its methods are safe for concurrent use; after the end of the
// hold they return an error that wraps stacknode.ErrNotPaused, or ErrDied.
type Held struct {
	op *operation
	mu sync.Mutex // held over an order and its answer
}

// Hold freezes the holders of a connection and holds it until limit is over
// (0: there is none) or a method of Held ends it. ctx is for the time until
// it is held. Its errors are those of Save.
//
// If the owner is killed the hold goes on. When it ends then, the connection
// ends as the kernel ends one whose owner was killed.
func (c *Client) Hold(ctx context.Context, r Request, limit time.Duration) (*Held, error) {
	op, err := c.begin(message{Op: opHold, Request: &r, Limit: limit})
	if err != nil {
		return nil, err
	}
	if _, err := op.wait(ctx); err != nil {
		op.abandon()
		return nil, err
	}
	return &Held{op: op}, nil
}

// Done is closed when the hold has ended and everything is put back.
func (h *Held) Done() <-chan struct{} { return h.op.done }

// Err tells why the hold has ended, when Done is closed: nil after Resume or
// Discard.
func (h *Held) Err() error {
	select {
	case <-h.op.done:
		return h.op.err
	default:
		return nil
	}
}

// Save saves the connection as it is held. A caller who discards it
// afterwards has its final state.
func (h *Held) Save(ctx context.Context) (*soccr.Conn, error) {
	type result struct {
		answer
		err error
	}
	got := make(chan result, 1)
	go func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.op.order(opAgain)
		a, err := h.op.wait(context.Background())
		got <- result{a, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			return nil, r.err
		}
		return readConn(r.file)
	case <-ctx.Done():
		go func() {
			if r := <-got; r.file != nil {
				r.file.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// Resume lets the connection and its owner go on.
func (h *Held) Resume() error {
	err := h.finish(opResume)
	if errors.Is(err, ErrDied) {
		return nil // then the client did it
	}
	return err
}

// Discard ends the connection without a packet to the peer; the owner finds
// ECONNABORTED. After an error that is not about the end of the hold, the
// hold goes on.
func (h *Held) Discard() error { return h.finish(opDiscard) }

// finish orders the end and waits for it.
func (h *Held) finish(how string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.op.done:
		if h.op.err == nil {
			return errEnded
		}
		return h.op.err
	default:
	}
	h.op.order(how)
	_, err := h.op.wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		h.op.link.kill("it does not let go")
		<-h.op.done
		return ErrDied
	}
	if err == errEnded { // as ordered
		return nil
	}
	return err
}
