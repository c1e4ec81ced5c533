package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// Ioctl serves the node ABI. The kernel passes exactly the bytes that cmd
// says; a command with another size is another command.
func (n *stackNode) Ioctl(ctx context.Context, _ fs.FileHandle, cmd uint32, _ uint64, in, out []byte) (int32, syscall.Errno) {
	var reply []byte
	var err error
	switch cmd {
	case uapi.IocVersion:
		reply, err = ioctlVersion(in)
	case uapi.IocInfo:
		reply, err = n.ioctlInfo(ctx, in)
	case uapi.IocMsocket:
		reply, err = n.ioctlMsocket(ctx, in)
	case uapi.IocRun:
		reply, err = n.ioctlRun(ctx, in)
	case uapi.IocListen:
		reply, err = n.ioctlListen(ctx, in)
	default:
		return 0, syscall.ENOTTY
	}
	if err != nil {
		n.tree.log.Debug("ioctl", "stack", n.stack.Name(), "cmd", fmt.Sprintf("%#x", cmd), "err", err)
		return 0, n.tree.errno("ioctl", err)
	}
	if len(reply) != len(out) {
		return 0, syscall.EINVAL
	}
	copy(out, reply)
	return 0, 0
}

// caller describes the thread that waits for this request.
func (n *stackNode) caller(ctx context.Context) (*peer.Proc, *stacknode.Caller, error) {
	fc, ok := fuse.FromContext(ctx)
	if !ok {
		return nil, nil, syscall.EIO
	}
	p, err := peer.Open(int(fc.Pid))
	if err != nil {
		return nil, nil, err
	}
	c, err := p.Caller()
	if err != nil {
		p.Close()
		return nil, nil, err
	}
	return p, c, nil
}

// pend describes the caller and counts the request as one of its user's
// until done. Closing what was fetched from a caller can take as long as that
// caller likes.
func (n *stackNode) pend(ctx context.Context) (p *peer.Proc, c *stacknode.Caller, done func(), err error) {
	if p, c, err = n.caller(ctx); err != nil {
		return nil, nil, nil, err
	}
	release, err := n.tree.begin(c.RealUID)
	if err != nil {
		p.Close()
		return nil, nil, nil, err
	}
	return p, c, func() {
		release()
		p.Close()
	}, nil
}

// begin counts a request as one of uid's until done.
func (t *tree) begin(uid uint32) (done func(), err error) {
	done, err = t.pending.Acquire(uid)
	if err != nil {
		return nil, fmt.Errorf("too many requests at a time: %w", syscall.EAGAIN)
	}
	return done, nil
}

var kinds = map[stacknode.Kind]uint32{
	stacknode.KindKernel: uapi.KindKernel,
	stacknode.KindNetns:  uapi.KindNetns,
	stacknode.KindNull:   uapi.KindNull,
	stacknode.KindFast:   uapi.KindFast,
}

func ioctlVersion(in []byte) ([]byte, error) {
	if err := new(uapi.Version).UnmarshalBinary(in); err != nil {
		return nil, err
	}
	return (&uapi.Version{Major: uapi.ABIMajor, Minor: uapi.ABIMinor, Features: uapi.FeatureConns | uapi.FeatureFast}).MarshalBinary()
}

func (n *stackNode) ioctlInfo(ctx context.Context, in []byte) ([]byte, error) {
	if err := new(uapi.Info).UnmarshalBinary(in); err != nil {
		return nil, err
	}
	s := n.stack
	if s.State() != stacknode.Up {
		return nil, stacknode.ErrClosed
	}
	info := uapi.Info{Kind: kinds[s.Kind()], Families: uint64(s.Families())}
	copy(info.Name[:len(info.Name)-1], s.Name())
	_, info.NetnsCookie, _ = s.NetNS()
	if files, err := n.nameFiles(); err == nil && len(files) > 0 {
		info.Flags |= uapi.InfoEtc
	}
	if own, ok := s.Backend().(stacknode.OwnNamespace); ok {
		p, c, err := n.caller(ctx)
		if err != nil {
			return nil, err
		}
		defer p.Close()
		if s.Self(c) {
			info.Flags |= uapi.InfoSelf
		}
		if own.Foreign() {
			info.Flags |= uapi.InfoForeign
		}
	} else {
		info.Flags |= uapi.InfoForeign
	}
	return info.MarshalBinary()
}

func (n *stackNode) ioctlMsocket(ctx context.Context, in []byte) ([]byte, error) {
	var m uapi.Msocket
	if err := m.UnmarshalBinary(in); err != nil {
		return nil, err
	}
	p, c, done, err := n.pend(ctx)
	if err != nil {
		return nil, err
	}
	defer done()

	if m.Domain == stacknode.AFUnix && n.stack.State() == stacknode.Up ||
		m.Flags&uapi.MsocketMake == 0 && m.Type != -1 && n.stack.Families().Has(int(m.Domain)) &&
			n.stack.Lets(c, int(m.Domain), int(m.Type), int(m.Protocol)) {
		if err := n.stack.Admit(c); err != nil {
			return nil, err
		}
		if err := n.stack.Refuses(int(m.Domain), int(m.Type), int(m.Protocol)); err != nil {
			return nil, err
		}
		m.Result = uapi.ResultSelf
		return m.MarshalBinary()
	}
	conn, err := p.FetchFD(c.PID, int(m.ReplyFD), peer.IsSocket, syscall.ENOTSOCK)
	if err != nil {
		return nil, err
	}
	kept, err := n.open(ctx, c, conn, &m)
	if !kept {
		conn.Close()
	}
	if err != nil {
		return nil, err
	}
	m.Result = uapi.ResultSent
	return m.MarshalBinary()
}

// open makes the socket that m asks for and sends it on conn, together with
// one end of a new channel if the stack serves these. Without a channel conn
// itself is left to the stack (kept): while the socket may wait unreceived it
// counts as the caller's.
func (n *stackNode) open(ctx context.Context, c *stacknode.Caller, conn *os.File, m *uapi.Msocket) (kept bool, err error) {
	if err := peer.CheckReply(conn, m.ReplyCookie); err != nil {
		return false, err
	}
	sock, err := n.stack.Socket(ctx, c, int(m.Domain), int(m.Type), int(m.Protocol))
	if err != nil {
		return false, err
	}
	defer sock.Close()

	server, ok := n.stack.Backend().(stacknode.ChannelServer)
	release := func() {}
	if ok {
		if release, err = n.tree.channels.Acquire(c.RealUID); err != nil {
			return false, err
		}
	}
	rep := uapi.ChanRep{Flags: uapi.ChanClosed}
	mine, send := conn, []*os.File{sock}
	if n.stack.KeepsChannels() {
		var his *os.File
		if mine, his, err = peer.Channel(); err != nil {
			release()
			return false, err
		}
		defer his.Close()
		rep.Flags, send = 0, append(send, his)
	}
	msg, err := rep.MarshalBinary()
	if err == nil {
		err = peer.SendReply(conn, msg, send...)
	}
	if err != nil || !ok {
		release()
		if mine != conn {
			mine.Close()
		}
		return false, err
	}
	if err := server.ServeChannel(mine, c, release); err != nil {
		// The caller has its socket; it sees the end of the channel.
		level := slog.LevelWarn
		if errors.Is(err, stacknode.ErrClosed) {
			level = slog.LevelInfo // the stack was removed meanwhile
		}
		n.tree.log.Log(ctx, level, "channel not kept", "stack", n.stack.Name(), "err", err)
	}
	return mine == conn, nil
}

func (n *stackNode) ioctlListen(ctx context.Context, in []byte) ([]byte, error) {
	var l uapi.Listen
	if err := l.UnmarshalBinary(in); err != nil {
		return nil, err
	}
	spawner, ok := n.stack.Backend().(stacknode.Spawner)
	if !ok {
		return nil, fmt.Errorf("a stack of kind %s has no clones of listeners: %w", n.stack.Kind(), syscall.EOPNOTSUPP)
	}
	p, c, done, err := n.pend(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := n.stack.Admit(c); err != nil {
		return nil, err
	}
	conn, err := p.FetchFD(c.PID, int(l.ReplyFD), peer.IsSocket, syscall.ENOTSOCK)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := peer.CheckReply(conn, l.ReplyCookie); err != nil {
		return nil, err
	}
	sock, err := p.FetchFD(c.PID, int(l.ListenerFD), peer.IsSocket, syscall.ENOTSOCK)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	if err := peer.CheckCookie(sock, l.ListenerCookie); err != nil {
		return nil, err
	}
	spawned, err := spawner.Spawn(ctx, c, sock)
	if err != nil {
		return nil, err
	}
	defer spawned.Close()
	msg, err := (&uapi.ChanRep{}).MarshalBinary()
	if err != nil {
		return nil, err
	}
	if err := peer.SendReply(conn, msg, spawned.Box, spawned.Page); err != nil {
		return nil, err
	}
	l.BoxSize = uint32(spawned.Size)
	return l.MarshalBinary()
}

var errNoListener = fmt.Errorf("no seccomp listener: %w", syscall.EINVAL)

func (n *stackNode) ioctlRun(ctx context.Context, in []byte) ([]byte, error) {
	var r uapi.Run
	if err := r.UnmarshalBinary(in); err != nil {
		return nil, err
	}
	families := stacknode.FamilySet(r.Families) & stacknode.AllFamilies
	if families == 0 {
		return nil, fmt.Errorf("no address families: %w", syscall.EINVAL)
	}
	p, c, done, err := n.pend(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := n.stack.Admit(c); err != nil {
		return nil, err
	}
	if r.ListenerFD < 0 {
		if r.Ticket, err = n.tree.host.RunTicket(c, n.stack, families); err != nil {
			return nil, err
		}
		return r.MarshalBinary()
	}
	listener, err := p.FetchFD(c.PID, int(r.ListenerFD), peer.IsSeccompListener, errNoListener)
	if err != nil {
		return nil, err
	}
	if err := n.tree.host.Run(c, n.stack, listener, families); err != nil {
		return nil, err
	}
	return r.MarshalBinary()
}
