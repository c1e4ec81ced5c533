package image

import (
	"net/netip"
	"slices"
	"time"

	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	"google.golang.org/protobuf/proto"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image/internal/pb"
)

// extensionOf makes the extension of an image of c.
func extensionOf(c *soccr.Conn, seal *Seal) *pb.Extension {
	x := &pb.Extension{
		Format:     Format,
		Program:    c.Meta.Version,
		Family:     uint32(c.Family),
		State:      uint32(c.State),
		Shutdown:   uint32(c.Shutdown),
		Local:      address(c.Local),
		Remote:     address(c.Remote),
		Congestion: []byte(c.Congestion),
		Device:     []byte(c.Device),
		Meta: &pb.Meta{
			Cookie: c.Meta.Cookie,
			Inode:  c.Meta.Inode,
			Uid:    c.Meta.UID,
			Live:   c.Meta.Live,
			Method: c.Meta.Method,
			Netns:  c.Meta.NetNS,
			Stack:  c.Meta.Stack,
		},
		Info: &pb.Info{
			SndCwnd:     c.Info.SndCwnd,
			SndSsthresh: c.Info.SndSsthresh,
			Rtt:         uint64(c.Info.RTT),
			Rttvar:      uint64(c.Info.RTTVar),
			Retransmits: c.Info.Retransmits,
			Lost:        c.Info.Lost,
		},
	}
	if !c.Meta.Time.IsZero() {
		x.Meta.Time = c.Meta.Time.UnixNano()
	}
	for _, name := range sortedNames(c.Options) {
		x.Options = append(x.Options, &pb.Option{Name: name, Value: c.Options[name]})
	}
	if seal != nil {
		x.Seal = &pb.Seal{
			Uid:    seal.UID,
			BootId: seal.BootID[:],
			Netns:  seal.NetNS,
			Stack:  seal.Stack,
			Nonce:  seal.Nonce[:],
		}
	}
	return x
}

// address returns nil for what is not valid.
func address(a netip.AddrPort) *pb.Address {
	if !a.IsValid() {
		return nil
	}
	return &pb.Address{Ip: a.Addr().AsSlice(), Port: uint32(a.Port()), Zone: []byte(a.Addr().Zone())}
}

func sortedNames(o soccr.Options) []string {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// extendedConn makes the connection of an image of ours, without queues, and
// its seal. Fields that this version does not know are left out: they are in
// the digest, and an image that cannot do without them has a later format.
func extendedConn(e *tcp_stream.TcpStreamEntry, p parts) (*soccr.Conn, *Seal, error) {
	var x pb.Extension
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(p.ext, &x); err != nil {
		return nil, nil, problemf(ErrDamaged, "the extension is no protobuf message: %s", why(err))
	}
	c := &soccr.Conn{
		Data:       streamData(e),
		Family:     int(x.GetFamily()),
		Options:    make(soccr.Options, len(x.GetOptions())),
		Congestion: string(x.GetCongestion()),
		Device:     string(x.GetDevice()),
		Meta: soccr.Meta{
			Cookie:  x.GetMeta().GetCookie(),
			Inode:   x.GetMeta().GetInode(),
			UID:     x.GetMeta().GetUid(),
			Live:    x.GetMeta().GetLive(),
			Method:  x.GetMeta().GetMethod(),
			NetNS:   x.GetMeta().GetNetns(),
			Stack:   x.GetMeta().GetStack(),
			Version: x.GetProgram(),
		},
		Info: soccr.Info{
			SndCwnd:     x.GetInfo().GetSndCwnd(),
			SndSsthresh: x.GetInfo().GetSndSsthresh(),
			RTT:         time.Duration(x.GetInfo().GetRtt()),
			RTTVar:      time.Duration(x.GetInfo().GetRttvar()),
			Retransmits: x.GetInfo().GetRetransmits(),
			Lost:        x.GetInfo().GetLost(),
		},
	}
	if t := x.GetMeta().GetTime(); t != 0 {
		c.Meta.Time = time.Unix(0, t).UTC()
	}
	if x.GetState() > 0xff || x.GetShutdown() > 0xff {
		return nil, nil, invalidf("state %d, shutdown %d: there are none such", x.GetState(), x.GetShutdown())
	}
	c.State, c.Shutdown = soccr.State(x.GetState()), uint8(x.GetShutdown())
	for _, o := range x.GetOptions() {
		if _, twice := c.Options[o.GetName()]; twice {
			return nil, nil, invalidf("the option %q is there twice", o.GetName())
		}
		c.Options[o.GetName()] = o.GetValue()
	}
	var err error
	if c.Local, err = addrPort(x.GetLocal()); err != nil {
		return nil, nil, err
	}
	if c.Remote, err = addrPort(x.GetRemote()); err != nil {
		return nil, nil, err
	}
	seal, err := sealFrom(x.GetSeal(), p.sealed)
	return c, seal, err
}

func addrPort(a *pb.Address) (netip.AddrPort, error) {
	if a == nil {
		return netip.AddrPort{}, nil
	}
	ip, ok := netip.AddrFromSlice(a.GetIp())
	if !ok || a.GetPort() > 0xffff {
		return netip.AddrPort{}, invalidf("an address of %d bytes with the port %d", len(a.GetIp()), a.GetPort())
	}
	if zone := string(a.GetZone()); zone != "" {
		ip = ip.WithZone(zone)
		if ip.Zone() == "" {
			return netip.AddrPort{}, invalidf("the address %s has an interface", ip)
		}
	}
	return netip.AddrPortFrom(ip, uint16(a.GetPort())), nil
}

// sealFrom returns what the seal says; there tells whether field 1002 is.
func sealFrom(s *pb.Seal, there bool) (*Seal, error) {
	switch {
	case s == nil && !there:
		return nil, nil
	case s == nil || !there:
		return nil, problemf(ErrDamaged, "the seal is not complete")
	case len(s.GetBootId()) != 16 || len(s.GetNonce()) != 16:
		return nil, problemf(ErrDamaged, "the seal has numbers of a wrong length")
	}
	return &Seal{
		UID:    s.GetUid(),
		BootID: [16]byte(s.GetBootId()),
		NetNS:  s.GetNetns(),
		Stack:  s.GetStack(),
		Nonce:  [16]byte(s.GetNonce()),
	}, nil
}
