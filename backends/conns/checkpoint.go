package conns

import (
	"context"
	"errors"

	"github.com/stackfs/stackfs/backends/guardian"
	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/soccr/snapshot"
	"github.com/stackfs/stackfs/stacknode"
)

// target finds a connection and checks that caller may touch it.
func (s *Stack) target(ctx context.Context, caller *stacknode.Caller, cookie uint64) (t target, sock *socket, err error) {
	if sock, err = s.tables.find(ctx, cookie); err != nil {
		return t, nil, err
	}
	tracer, err := s.mayTouch(ctx, caller, sock)
	if err != nil {
		return t, nil, err
	}
	id, _ := s.cfg.Worker.NetNS()
	t.Request = guardian.Request{Cookie: cookie, Inode: uint64(sock.inode), Tracer: tracer}
	t.netns = snapshot.NetNS{Key: id, Do: s.cfg.Worker.Do}
	return t, sock, nil
}

// Checkpoint implements stacknode.Checkpointer.
func (s *Stack) Checkpoint(ctx context.Context, caller *stacknode.Caller, cookie uint64) ([]byte, error) {
	if s.env.Engine.off() {
		return nil, errOff
	}
	t, sock, err := s.target(ctx, caller, cookie)
	if err != nil {
		return nil, err
	}
	if err := saveable(sock); err != nil {
		return nil, err
	}
	c, err := s.save(ctx, t)
	if err != nil {
		return nil, err
	}
	_, netns := s.cfg.Worker.NetNS()
	c.Meta.Stack, c.Meta.NetNS, c.Meta.Version = s.cfg.Stack, netns, s.env.Version
	c.Meta.Cookie, c.Meta.Inode, c.Meta.UID = cookie, uint64(sock.inode), sock.uid
	return image.Encode(c, s.seal(caller))
}

// save saves a connection: one that is paused as it is held.
func (s *Stack) save(ctx context.Context, t target) (*soccr.Conn, error) {
	if p := s.pausedOne(t.Cookie); p != nil {
		c, err := p.held.Save(ctx)
		if err == nil {
			c.Meta.Live = false
		}
		return c, err
	}
	c, err := s.env.Engine.save(ctx, t)
	switch {
	case errors.Is(err, soccr.ErrNotFound):
		return nil, stacknode.ErrNoConn
	case err != nil:
		return nil, err
	}
	c.Meta.Live = true
	return c, nil
}

// seal returns the options that seal an image for caller, where the stack
// seals images at all. Without a seal root can restore the image.
func (s *Stack) seal(caller *stacknode.Caller) image.Options {
	_, netns := s.cfg.Worker.NetNS()
	ours, err := s.cfg.Worker.Ours()
	if netns == 0 || !ours && err == nil {
		return image.Options{}
	}
	var opts image.Options
	if err == nil {
		opts, err = s.env.Seals.options(caller.UID, netns, s.cfg.Stack)
	}
	if err != nil && !s.unsealed.Swap(true) {
		s.log.Warn("images are not sealed, so only root can restore them", "err", err)
	}
	return opts
}
