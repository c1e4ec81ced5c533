package conns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
)

// What follows speaks sock_diag(7) by itself: package netlink's own functions
// ask for the tcp_info of every socket, for which the kernel locks each, and
// have neither its state nor an exact request by cookie.

const (
	sizeofDiagReq = 56 // struct inet_diag_req_v2
	sizeofDiagMsg = 72 // struct inet_diag_msg

	allStates = 0xfff // TCPF_*, of TCP_ESTABLISHED to TCP_CLOSING

	// timerTimeWait is idiag_timer of an entry that is no socket any more:
	// its state is TIME_WAIT, or FIN_WAIT2 that waits for the peer.
	timerTimeWait = 3
)

// An entry is struct inet_diag_msg: one TCP socket as sock_diag shows it. It
// has no pointers, since a table of tens of thousands is kept.
type entry struct {
	cookie       uint64
	src, dst     [16]byte // IPv4: the first 4 bytes
	sport, dport uint16
	iface        uint32 // index of the link that the socket is bound to
	family       uint8
	state        soccr.State
	timer        uint8
	retrans      uint8
	expires      uint32 // milliseconds, of timer
	recvq, sendq uint32
	uid          uint32
	inode        uint32
	tagged       bool // see Tags; only dumps tell
}

// parseEntry reads b, the body of a SOCK_DIAG_BY_FAMILY message. attrs is what
// follows in b.
func parseEntry(b []byte) (e entry, attrs []byte, err error) {
	if len(b) < sizeofDiagMsg {
		return e, nil, fmt.Errorf("sock_diag: a message of %d bytes: %w", len(b), unix.EBADMSG)
	}
	ne, be := binary.NativeEndian, binary.BigEndian
	e.family, e.state, e.timer, e.retrans = b[0], soccr.State(b[1]), b[2], b[3]
	e.sport, e.dport = be.Uint16(b[4:]), be.Uint16(b[6:])
	copy(e.src[:], b[8:24])
	copy(e.dst[:], b[24:40])
	e.iface = ne.Uint32(b[40:])
	e.cookie = uint64(ne.Uint32(b[44:])) | uint64(ne.Uint32(b[48:]))<<32
	e.expires = ne.Uint32(b[52:])
	e.recvq, e.sendq = ne.Uint32(b[56:]), ne.Uint32(b[60:])
	e.uid, e.inode = ne.Uint32(b[64:]), ne.Uint32(b[68:])
	return e, b[sizeofDiagMsg:], nil
}

// mini tells whether the entry is no socket but what the kernel keeps instead
// of one: of a connection that is not established yet, or has ended.
func (e *entry) mini() bool {
	return e.timer == timerTimeWait || e.state == soccr.TimeWait || e.state == soccr.SynRecv || e.state == soccr.NewSynRecv
}

// A links names links by their index, which zones of addresses do.
type links map[uint32]string

// learn looks up the link that e needs, in the namespace of the calling
// thread.
func (l links) learn(e *entry) {
	if e.iface == 0 || l[e.iface] != "" || e.family != unix.AF_INET6 || !netip.AddrFrom16(e.src).IsLinkLocalUnicast() {
		return
	}
	name := strconv.FormatUint(uint64(e.iface), 10)
	if ifi, err := net.InterfaceByIndex(int(e.iface)); err == nil {
		name = ifi.Name
	}
	l[e.iface] = name
}

func (e *entry) addrPort(a [16]byte, port uint16, l links) netip.AddrPort {
	if e.family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[:4])), port)
	}
	addr := netip.AddrFrom16(a)
	if addr.IsLinkLocalUnicast() {
		addr = addr.WithZone(l[e.iface])
	}
	return netip.AddrPortFrom(addr, port)
}

// conn returns what everybody may see of the entry.
func (e *entry) conn(l links) stacknode.Conn {
	c := stacknode.Conn{
		Cookie: e.cookie, State: e.state.String(), Family: int(e.family), Local: e.addrPort(e.src, e.sport, l),
		UID: e.uid, Inode: uint64(e.inode), RecvQ: e.recvq, SendQ: e.sendq,
	}
	if e.dport != 0 {
		c.Remote = e.addrPort(e.dst, e.dport, l)
	}
	return c
}

// A diagRequest is struct inet_diag_req_v2.
type diagRequest [sizeofDiagReq]byte

func newDiagRequest(family uint8, states uint32) *diagRequest {
	r := &diagRequest{family, unix.IPPROTO_TCP}
	binary.NativeEndian.PutUint32(r[4:], states)
	return r
}

// exactly makes the request one for the socket e and no other.
func (r *diagRequest) exactly(e *entry) {
	ne, be := binary.NativeEndian, binary.BigEndian
	be.PutUint16(r[8:], e.sport)
	be.PutUint16(r[10:], e.dport)
	copy(r[12:], e.src[:])
	copy(r[28:], e.dst[:])
	ne.PutUint32(r[44:], e.iface)
	ne.PutUint32(r[48:], uint32(e.cookie))
	ne.PutUint32(r[52:], uint32(e.cookie>>32))
}

// extensions asks for what attribute n of INET_DIAG_* says, too.
func (r *diagRequest) extensions(attrs ...uint16) {
	for _, n := range attrs {
		r[2] |= 1 << (n - 1)
	}
}

// Len and Serialize make it a nl.NetlinkRequestData.
func (r *diagRequest) Len() int          { return len(r) }
func (r *diagRequest) Serialize() []byte { return r[:] }

// dump calls fn for every TCP socket of the namespace of the calling thread.
// The kernel walks its tables while they change: a socket may be missing only
// if it came or went meanwhile, and one may be there twice.
func dump(tags *Tags, fn func(entry)) error { return dumpStates(allStates, tags, fn) }

// dumpStates is dump for the sockets in some states: 1 << state for each.
func dumpStates(states uint32, tags *Tags, fn func(entry)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		extra := tags.request()
		err := requestWith(nil, newDiagRequest(family, states), extra, nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, func(b []byte) error {
			e, attrs, err := parseEntry(b)
			if err == nil {
				e.tagged = extra != nil && hasTag(attrs)
				fn(e)
			}
			return err
		})
		if errors.Is(err, unix.ENOENT) && family == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("list TCP sockets: %w", err)
		}
	}
	return nil
}

// A channel is a sock_diag socket of a namespace, for several requests. nil:
// each request makes one, in the namespace of the calling thread.
type channel map[int]*nl.SocketHandle

// openChannel opens a channel to the namespace of the calling thread. The
// caller closes it.
func openChannel() (channel, error) {
	s, err := nl.Subscribe(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	if err := s.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil {
		s.Close()
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	return channel{unix.NETLINK_INET_DIAG: {Socket: s}}, nil
}

func (c channel) Close() { c[unix.NETLINK_INET_DIAG].Close() }

// get returns e as it is now, with the attributes that are asked for. The
// channel is of the namespace of the socket. Returns ENOENT if no socket has
// these addresses, ESTALE if it is another one.
func (c channel) get(e *entry, attrs ...uint16) (now entry, raw []byte, err error) {
	r := newDiagRequest(e.family, allStates)
	r.exactly(e)
	r.extensions(attrs...)
	found := false
	err = request(c, r, nl.SOCK_DIAG_BY_FAMILY, 0, func(b []byte) (err error) {
		found = true
		now, raw, err = parseEntry(b)
		return err
	})
	if err == nil && !found {
		err = unix.ENOENT
	}
	if err == nil && now.cookie != e.cookie {
		err = unix.ESTALE
	}
	return now, raw, err
}

// destroy ends the socket e, with a reset to the peer if there is one. Needs
// CAP_NET_ADMIN over the namespace. Since 4.9, with CONFIG_INET_DIAG_DESTROY:
// else EOPNOTSUPP.
func destroy(e *entry) error {
	r := newDiagRequest(e.family, allStates)
	r.exactly(e)
	return request(nil, r, nl.SOCK_DESTROY, unix.NLM_F_ACK, func([]byte) error { return nil })
}

// request sends r and calls fn with the body of each message of the answer.
func request(c channel, r *diagRequest, typ, flags int, fn func(b []byte) error) error {
	return requestWith(c, r, nil, typ, flags, fn)
}

// requestWith is request with attributes behind r.
func requestWith(c channel, r *diagRequest, attrs []byte, typ, flags int, fn func(b []byte) error) error {
	req := nl.NewNetlinkRequest(typ, flags)
	req.Sockets = c
	req.AddData(r)
	if attrs != nil {
		req.AddRawData(attrs)
	}
	var ferr error
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(b []byte) bool {
		ferr = fn(b)
		return ferr == nil
	})
	// Interrupted: the tables changed, which those of sockets always do.
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return err
	}
	return ferr
}

// timerText says what the entry waits for, as ss(8) does.
func (e *entry) timerText() string {
	names := [...]string{"off", "on", "keepalive", "timewait", "persist"}
	if e.timer == 0 || int(e.timer) >= len(names) {
		return ""
	}
	return fmt.Sprintf("%s %s, retransmits %d", names[e.timer], time.Duration(e.expires)*time.Millisecond, e.retrans)
}
