package conns

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// Listening returns how many connections wait to be accepted, for each
// listener of the namespace by its cookie.
func (s *Stack) Listening(ctx context.Context) (map[uint64]uint32, error) {
	queues := map[uint64]uint32{}
	err := s.cfg.Worker.Do(func() error {
		return dumpStates(1<<soccr.Listen, nil, func(e entry) { queues[e.cookie] = e.recvq })
	})
	return queues, err
}

// EndListener makes a listener stop to listen, behind the back of the process
// that has it, which can listen again: what waits there to be accepted goes to
// another one of its group, where the kernel can do that. Returns
// stacknode.ErrNoConn if there is none, or no process has it.
//
// Not by SOCK_DESTROY: of several listeners with one address that finds the one
// that a packet would come to.
func (s *Stack) EndListener(ctx context.Context, cookie uint64) error {
	var inode uint64
	err := s.cfg.Worker.Do(func() error {
		return dumpStates(1<<soccr.Listen, nil, func(e entry) {
			if e.cookie == cookie {
				inode = uint64(e.inode)
			}
		})
	})
	if err != nil {
		return err
	}
	if inode == 0 {
		return stacknode.ErrNoConn
	}
	found, err := s.env.Holders.find(ctx, inode)
	if err != nil {
		return err
	}
	for _, h := range found[inode] {
		f, err := peer.FetchSocket(h, cookie)
		if err != nil {
			continue // that process has closed it, or ended
		}
		defer f.Close()
		return control(f, func(fd int) error { return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_RD)) })
	}
	return stacknode.ErrNoConn
}
