package conns

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// Abort implements stacknode.Checkpointer.
func (s *Stack) Abort(ctx context.Context, caller *stacknode.Caller, cookie uint64) error {
	t, sock, err := s.target(ctx, caller, cookie)
	if err != nil {
		return err
	}
	_, err = ask(ctx, &s.env.Engine.locks, sock.uid, abortPatience, func() (struct{}, error) {
		if inTurn() && sock.inode != 0 {
			// Not before its lock is free.
			if _, err := s.infoOfHolder(ctx, sock); err != nil && !errors.Is(err, errNoHolder) {
				return struct{}{}, err
			}
		}
		err := s.cfg.Worker.Do(func() error { return destroy(&sock.entry) })
		if errors.Is(err, unix.EOPNOTSUPP) && t.Inode != 0 {
			err = s.disconnect(ctx, sock)
		}
		return struct{}{}, err
	})
	if isGone(err) {
		return stacknode.ErrNoConn
	}
	if err != nil {
		return fmt.Errorf("end the connection: %w", err)
	}
	s.log.Debug("connection aborted", "cookie", cookie, "uid", caller.UID)
	if p := s.pausedOne(cookie); p != nil {
		return p.end()
	}
	return nil
}

// disconnect ends a connection by a descriptor of it, on kernels without
// CONFIG_INET_DIAG_DESTROY: connect(2) to AF_UNSPEC resets it.
func (s *Stack) disconnect(ctx context.Context, sock *socket) error {
	err := s.byHolder(ctx, sock, disconnectFD)
	if errors.Is(err, errNoHolder) {
		return unix.ENOENT
	}
	return err
}
