package conns

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode"
)

// A permit is the right to have a connection made.
type permit struct {
	// once: the image is good for one connection, its nonce is to be used up.
	once bool
	// trusted: what the image asks for was in force once, or the caller
	// could have it without us.
	trusted bool
}

// mayRestore checks that caller may have a connection made of img:
//
//   - with CAP_NET_ADMIN over the stack's network namespace, and by a grant, of
//     any image. Who has the capability could do it without us;
//   - else of an image that this installation sealed for him, here or on a
//     stack of restore_from, once, and if he may bind its port.
//
// In a namespace that belongs to another user namespace nothing is ever
// sealed: whoever owns it can make connections to anywhere and from anybody
// there.
func (s *Stack) mayRestore(caller *stacknode.Caller, img *image.Image) (permit, error) {
	d, err := caller.Look()
	if err != nil {
		return permit{}, err
	}
	if err := s.admit(d); err != nil {
		return permit{}, err
	}
	caps, err := s.cfg.Worker.CapsOver(d)
	if err != nil {
		return permit{}, err
	}
	if caps&stacknode.CapNetAdmin != 0 {
		return permit{trusted: d.SameUserNS}, nil
	}
	if s.granted(d) {
		return permit{}, nil
	}
	ours, err := s.cfg.Worker.Ours()
	if err != nil {
		return permit{}, err
	}
	if !ours {
		return permit{}, fmt.Errorf("the network namespace belongs to another user namespace, "+
			"so only who has CAP_NET_ADMIN over it may restore: %w", unix.EPERM)
	}
	if err := s.sealFits(caller.UID, img); err != nil {
		return permit{}, fmt.Errorf("without CAP_NET_ADMIN over the stack: %w", err)
	}
	if err := s.mayBind(caps, img.Conn.Local.Port()); err != nil {
		return permit{}, err
	}
	return permit{once: true, trusted: true}, nil
}

// sealFits checks that img was sealed for uid, in this boot, in a place from
// which this stack takes images.
func (s *Stack) sealFits(uid uint32, img *image.Image) error {
	if img.Seal == nil {
		return fmt.Errorf("only an image that was sealed here may be restored, this one is not: %w", unix.EPERM)
	}
	if err := s.env.Seals.check(img); err != nil {
		return err
	}
	_, cookie := s.cfg.Worker.NetNS()
	switch seal := img.Seal; {
	case seal.UID != uid:
		return fmt.Errorf("the image was sealed for uid %d: %w", seal.UID, errSealed)
	case cookie != 0 && seal.NetNS == cookie, slices.Contains(s.cfg.RestoreFrom, seal.Stack):
		return nil
	default:
		return fmt.Errorf("the image is of stack %s, in another network namespace (restore_from in the configuration of %s can allow it): %w",
			seal.Stack, s.cfg.Stack, errSealed)
	}
}

// mayBind applies the rule of bind(2) to the local port of a connection.
func (s *Stack) mayBind(caps stacknode.CapSet, port uint16) error {
	if caps&stacknode.CapNetBindService != 0 {
		return nil
	}
	var first int64
	err := s.cfg.Worker.Do(func() (err error) {
		first, err = readNumber("/proc/sys/net/ipv4/ip_unprivileged_port_start") // of the thread's namespace
		return err
	})
	if err != nil {
		return fmt.Errorf("which ports are privileged: %w", err)
	}
	if int64(port) < first {
		return fmt.Errorf("port %d needs CAP_NET_BIND_SERVICE over the stack (net.ipv4.ip_unprivileged_port_start is %d there): %w",
			port, first, unix.EACCES)
	}
	return nil
}
