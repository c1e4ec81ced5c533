package conns

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// Abort implements stacknode.Checkpointer.
func (s *Stack) Abort(ctx context.Context, caller *stacknode.Caller, cookie uint64) error {
	t, sock, err := s.target(ctx, caller, cookie)
	if err != nil {
		return err
	}
	_, err = ask(ctx, &s.env.Engine.locks, sock.uid, abortPatience, func() (struct{}, error) {
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
	found, err := s.env.Holders.find(ctx, uint64(sock.inode))
	if err != nil {
		return err
	}
	for _, h := range found[uint64(sock.inode)] {
		f, err := peer.FetchSocket(h, sock.cookie)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBADF) {
			continue
		}
		if err != nil {
			return err
		}
		defer f.Close()
		return control(f, disconnectFD)
	}
	return unix.ENOENT
}
