package snapshot

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// queued tells how many bytes are in the queues.
func (o *bpfSlot) queued() int64 { return int64(o.RecvLen) + int64(o.SendLen) }

// held tells how long the lock of the socket was held.
func (o *bpfSlot) held() time.Duration { return time.Duration(o.End - o.Begin) }

// data returns the numbers of the connection. It returns ErrQueue where they
// contradict each other.
func (o *bpfSlot) data() (soccr.Data, error) {
	state := soccr.State(o.State)
	d := soccr.Data{
		State:   state,
		InqLen:  o.RecvLen,
		InqSeq:  o.RcvNxt,
		OutqLen: o.SendLen,
		OutqSeq: o.WriteSeq,

		OptMask:   o.TcpiOptions,
		MSSClamp:  o.MssClamp,
		SndWscale: o.SndWscale,
		RcvWscale: o.RcvWscale,
		Timestamp: o.timestamp(),

		HasWindow: true,
		SndWl1:    o.SndWl1,
		SndWnd:    o.SndWnd,
		MaxWindow: o.MaxWindow,
		RcvWnd:    o.RcvWnd,
		RcvWup:    o.RcvWup,
	}
	switch state {
	case soccr.SynSent, soccr.Close:
	default:
		d.UnsqLen = o.WriteSeq - o.SndNxt
	}
	switch state {
	case soccr.FinWait1, soccr.FinWait2, soccr.Closing, soccr.LastAck:
		if d.UnsqLen > 0 {
			d.UnsqLen-- // our FIN is the last of them
		}
	}
	if !state.Saveable() || d.UnsqLen > d.OutqLen || o.Family != unix.AF_INET && o.Family != unix.AF_INET6 {
		return d, fmt.Errorf("state %v, family %d, %d bytes of %d not sent: %w", state, o.Family, d.UnsqLen, d.OutqLen, ErrQueue)
	}
	return d, nil
}

// timestamp is what getsockopt(TCP_TIMESTAMP) told at that moment.
func (o *bpfSlot) timestamp() uint32 {
	const (
		millisecond = 1e6 // ns: TCP_TS_HZ is 1000
		microsecond = 1e3
	)
	switch o.UsecTs {
	case 0:
		return (uint32(o.Begin/millisecond) + o.Tsoffset) &^ 1
	case 1:
		return (uint32(o.Begin/microsecond) + o.Tsoffset) | 1
	}
	return uint32(o.Begin/millisecond) + o.Tsoffset // before 6.7
}

// addresses returns both ends. zone is the name of the interface that the
// socket is bound to.
func (o *bpfSlot) addresses(zone string) (local, remote netip.AddrPort) {
	at := func(b [16]uint8, port uint16) netip.AddrPort {
		if o.Family == unix.AF_INET {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), port)
		}
		ip := netip.AddrFrom16(b)
		if ip.IsLinkLocalUnicast() && !ip.Is4In6() {
			ip = ip.WithZone(zone)
		}
		return netip.AddrPortFrom(ip, port)
	}
	local, remote = at(o.Local, o.LocalPort), at(o.Remote, o.RemotePort)
	if remote.Port() == 0 {
		remote = netip.AddrPort{}
	}
	return local, remote
}

func (o *bpfSlot) info(negotiated uint32) soccr.Info {
	return soccr.Info{
		SndCwnd:     o.SndCwnd,
		SndSsthresh: o.SndSsthresh,
		RTT:         time.Duration(o.SrttUs>>3) * time.Microsecond,
		RTTVar:      time.Duration(o.MdevUs>>2) * time.Microsecond,
		Retransmits: o.Retransmits,
		Lost:        o.lost(negotiated),
	}
}

// lost names what no restore brings back.
func (o *bpfSlot) lost(negotiated uint32) []string {
	var names []string
	add := func(is bool, format string, args ...any) {
		if is {
			names = append(names, fmt.Sprintf(format, args...))
		}
	}
	add(o.HasFilter != 0, "socket filter")
	add(o.OooBytes != 0, "%d out-of-order bytes", o.OooBytes)
	add(o.Errors != 0, "messages on the error queue")
	add(o.SockErr != 0, "pending error: %v", syscall.Errno(o.SockErr))
	add(o.HasIpOptions != 0, "IP options")
	add(o.HasPolicy != 0, "IPsec policy")
	add(o.Tsflags != 0, "SO_TIMESTAMPING")
	add(negotiated&soccr.OptECN != 0, "ECN")
	return names
}

// conn makes a connection of a slot that was taken. ifname is the name of
// the interface that the socket is bound to, empty for none.
func (o *bpfSlot) conn(f *facts, a *arena, ifname string) (*soccr.Conn, error) {
	d, err := o.data()
	if err != nil {
		return nil, err
	}
	c := &soccr.Conn{
		Data:       d,
		Family:     int(o.Family),
		Shutdown:   o.Shutdown,
		Options:    o.options(f),
		Congestion: cString(o.Congestion[:]),
		Device:     ifname,
		Meta: soccr.Meta{
			Cookie: o.Cookie,
			Inode:  o.Inode,
			UID:    o.Uid,
			Live:   true,
			Method: "bpf",
			NetNS:  o.Netns,
		},
		Info: o.info(d.OptMask),
	}
	c.Local, c.Remote = o.addresses(ifname)
	block, offset := o.Block, o.Offset
	if c.Recv, block, offset, err = a.gather(block, offset, o.RecvLen); err != nil {
		return nil, fmt.Errorf("receive queue: %w", err)
	}
	if c.Send, _, _, err = a.gather(block, offset, o.SendLen); err != nil {
		return nil, fmt.Errorf("send queue: %w", err)
	}
	return c, nil
}
