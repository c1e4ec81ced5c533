package conns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// admit checks that the stack serves caller at all: where it serves only
// callers of its own network namespace, others may not touch its connections.
func (s *Stack) admit(caller *stacknode.Details) error {
	if id, _ := s.cfg.Worker.NetNS(); s.cfg.OnlySelf && caller.NetNS != id {
		return stacknode.ErrForeign
	}
	return nil
}

// granted tells whether the configuration lets the caller do anything with
// the stack's connections.
func (s *Stack) granted(caller *stacknode.Details) bool {
	for _, g := range s.cfg.Grants {
		if g.Checkpoint && g.Covers(caller.Identity) {
			return true
		}
	}
	return false
}

// mayTouch checks that caller may save, hold and end the connection of sock:
// he may trace every process that holds it, by a look at them that began
// after he asked. It returns who is to be taken for the one that does it.
func (s *Stack) mayTouch(ctx context.Context, caller *stacknode.Caller, sock *socket) (peer.Tracer, error) {
	d, err := caller.Look()
	if err != nil {
		return peer.Tracer{}, err
	}
	if err := s.admit(d); err != nil {
		return peer.Tracer{}, err
	}
	if s.granted(d) {
		return peer.Self()
	}
	tracer, err := peer.TracerOf(caller)
	if err != nil || tracer.All() {
		return tracer, err
	}
	if sock.inode == 0 {
		return tracer, s.mayTouchUnheld(ctx, tracer, caller, sock)
	}
	return tracer, s.mayTrace(ctx, tracer, uint64(sock.inode))
}

// A daemon that has just handed a socket out may hold it for a moment more.
const (
	handOutPause = 5 * time.Millisecond
	handOutTries = 10
)

// mayTrace checks that tracer may trace every holder of the sockets. A holder
// that is the guardian does not count: nobody can give it a socket, it takes
// those that it is asked to hold. The daemon does count.
func (s *Stack) mayTrace(ctx context.Context, tracer peer.Tracer, inodes ...uint64) error {
	for try := 1; ; try++ {
		err := s.mayTraceNow(ctx, tracer, inodes)
		var refused *stacknode.HolderError
		if !errors.As(err, &refused) || refused.PID != os.Getpid() || try == handOutTries {
			return err
		}
		time.Sleep(handOutPause)
	}
}

func (s *Stack) mayTraceNow(ctx context.Context, tracer peer.Tracer, inodes []uint64) error {
	found, err := s.env.Holders.find(ctx, inodes...)
	if err != nil {
		return err
	}
	guardian := s.env.Engine.guardianPID()
	for _, inode := range inodes {
		known := 0
		for _, h := range found[inode] {
			if h.PID == guardian {
				continue
			}
			known++
			if err := tracer.Holders([]peer.Holder{h}); err != nil {
				return err
			}
		}
		if known == 0 {
			return errUnheld
		}
	}
	return nil
}

// mayTouchUnheld is mayTouch for a connection that no process holds. If it was
// not accepted yet it is for who could accept it: the socket was made by a
// listener of his uid, something listens on its port, and he may trace whatever
// holds these listeners. One that its owner has closed is nobody's: the owner
// may have been a process that he might not trace, and who listens on its port
// now tells nothing about that.
func (s *Stack) mayTouchUnheld(ctx context.Context, tracer peer.Tracer, caller *stacknode.Caller, sock *socket) error {
	// What was closed has sent, or is about to send, a FIN.
	waits := sock.state == soccr.Established || sock.state == soccr.CloseWait
	if !waits || sock.mini() || sock.uid != caller.UID || sock.uid != caller.RealUID {
		return errUnheld
	}
	tab, err := s.tables.now(ctx)
	if err != nil {
		return err
	}
	var inodes []uint64
	for i := range tab.entries {
		e := &tab.entries[i]
		if e.state == soccr.Listen && e.sport == sock.sport {
			inodes = append(inodes, uint64(e.inode))
		}
	}
	if len(inodes) == 0 {
		return errUnheld
	}
	return s.mayTrace(ctx, tracer, inodes...)
}

// saveable returns a *soccr.UnsaveableError if there is nothing to save in
// sock.
func saveable(sock *socket) error {
	why := ""
	switch {
	case sock.timer == timerTimeWait || sock.state == soccr.TimeWait:
		why = "the connection has ended (time-wait)"
	case sock.mini():
		why = "the handshake is not finished (" + sock.state.String() + ")"
	case sock.state == soccr.Listen:
		why = "it is a listener: bind and listen again instead"
	case !sock.state.Saveable():
		why = "state " + sock.state.String()
	default:
		return nil
	}
	return &soccr.UnsaveableError{Reason: why}
}

// A Holders finds the processes that hold sockets, for every stack.
type Holders struct {
	passes passes[[]uint64, map[uint64][]peer.Holder]
}

// NewHolders returns a Holders.
func NewHolders() *Holders {
	h := &Holders{}
	h.passes.run = func(asked [][]uint64) (map[uint64][]peer.Holder, error) {
		want := map[uint64]bool{}
		for _, inodes := range asked {
			for _, inode := range inodes {
				want[inode] = true
			}
		}
		found, err := peer.FindHolders(want)
		if err != nil {
			return nil, fmt.Errorf("look for the processes that hold a connection: %w", err)
		}
		return found, nil
	}
	return h
}

// find returns who holds each socket, by a pass over all processes that began
// after find was called.
func (h *Holders) find(ctx context.Context, inodes ...uint64) (map[uint64][]peer.Holder, error) {
	return h.passes.share(ctx, inodes)
}
