package conns

import (
	"context"
	"errors"
	"time"

	"github.com/stackfs/stackfs/stacknode"
)

// discardLimit bounds how long a connection is held to be discarded.
const discardLimit = 10 * time.Second

// A pause is a connection that is held.
type pause struct {
	held  Held          // nil: it is being made
	ended chan struct{} // closed when it is over and forgotten
}

// end resumes the connection and waits until that is known here.
func (p *pause) end() error { return p.over(p.held.Resume) }

func (p *pause) over(how func() error) error {
	if err := how(); err != nil {
		return err
	}
	<-p.ended
	return nil
}

// pausedOne returns the pause of a connection, nil if it is not paused.
func (s *Stack) pausedOne(cookie uint64) *pause {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.paused[cookie]; p != nil && p.held != nil {
		return p
	}
	return nil
}

// Pause implements stacknode.Checkpointer.
func (s *Stack) Pause(ctx context.Context, caller *stacknode.Caller, cookie uint64, limit time.Duration) error {
	if s.env.Engine.off() {
		return errOff
	}
	t, sock, err := s.target(ctx, caller, cookie)
	if err != nil {
		return err
	}
	if err := saveable(sock); err != nil {
		return err
	}
	release, err := s.env.Engine.holds.Acquire(caller.RealUID)
	if err != nil {
		return errHolds
	}
	p, err := s.reserve(cookie)
	if err != nil {
		release()
		return err
	}
	held, err := s.env.Engine.hold(ctx, t, limit)
	if err != nil {
		release()
		s.forget(cookie, p)
		return err
	}
	s.mu.Lock()
	p.held = held
	closed := s.closed
	s.mu.Unlock()
	go func() {
		<-held.Done()
		release()
		s.forget(cookie, p)
		close(p.ended)
	}()
	if closed {
		return errors.Join(stacknode.ErrClosed, p.end())
	}
	s.log.Debug("connection paused", "cookie", cookie, "uid", caller.UID, "limit", limit)
	return nil
}

// reserve notes that a connection is about to be held.
func (s *Stack) reserve(cookie uint64) (*pause, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, stacknode.ErrClosed
	}
	if s.paused[cookie] != nil {
		return nil, stacknode.ErrPaused
	}
	p := &pause{ended: make(chan struct{})}
	s.paused[cookie] = p
	return p, nil
}

func (s *Stack) forget(cookie uint64, p *pause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused[cookie] == p {
		delete(s.paused, cookie)
	}
}

// Resume implements stacknode.Checkpointer.
func (s *Stack) Resume(ctx context.Context, caller *stacknode.Caller, cookie uint64) error {
	if _, _, err := s.target(ctx, caller, cookie); err != nil {
		return err
	}
	p := s.pausedOne(cookie)
	if p == nil {
		return stacknode.ErrNotPaused
	}
	return p.end()
}

// Discard implements stacknode.Checkpointer.
func (s *Stack) Discard(ctx context.Context, caller *stacknode.Caller, cookie uint64) error {
	if s.env.Engine.off() {
		return errOff
	}
	t, sock, err := s.target(ctx, caller, cookie)
	if err != nil {
		return err
	}
	if p := s.pausedOne(cookie); p != nil {
		return p.over(p.held.Discard)
	}
	if err := saveable(sock); err != nil {
		return err
	}
	held, err := s.env.Engine.hold(ctx, t, discardLimit)
	if err != nil {
		return err
	}
	return held.Discard()
}
