package conns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/peer"
)

// Attributes of sock_diag, INET_DIAG_* of <linux/inet_diag.h>.
const (
	diagInfo      = 2
	diagCong      = 4
	diagTOS       = 5
	diagTClass    = 6
	diagSKMemInfo = 7
	diagShutdown  = 8
	diagMark      = 15
	diagCgroupID  = 21
	diagULP       = 19
	diagMD5       = 14
)

// A lines builds the lines of a status file.
type lines []stacknode.Line

func (l *lines) add(key, format string, args ...any) {
	*l = append(*l, stacknode.Line{Key: key, Value: fmt.Sprintf(format, args...)})
}

// ConnDetails implements stacknode.ConnTable.
func (s *Stack) ConnDetails(ctx context.Context, cookie uint64, owner bool) ([]stacknode.Line, error) {
	sock, err := s.tables.find(ctx, cookie, diagCong, diagTOS, diagTClass, diagSKMemInfo, diagShutdown)
	if err != nil {
		return nil, err
	}
	var l lines
	full, err := s.withInfo(ctx, sock)
	locked := ""
	switch {
	case err == nil:
		sock = full
	case errors.Is(err, errLocked):
		locked = "its owner keeps that"
	case errors.Is(err, errNoHolder):
		locked = "on this kernel by a descriptor, and no process has one"
	case !isGone(err):
		return nil, err
	}
	c := sock.conn(sock.links)
	l.add("cookie", "%d", c.Cookie)
	l.add("state", "%s", c.State)
	l.add("family", "%s", familyName(c.Family))
	l.add("local", "%s", c.Local)
	if c.Remote.IsValid() {
		l.add("remote", "%s", c.Remote)
	}
	if !sock.mini() {
		l.add("uid", "%d", c.UID)
	}
	if c.Inode != 0 {
		l.add("inode", "%d", c.Inode)
	}
	l.add("recv-q", "%d", c.RecvQ)
	l.add("send-q", "%d", c.SendQ)
	l.attributes(sock)
	if s.pausedOne(cookie) != nil {
		l.add("paused", "true")
	}
	if owner && c.Inode != 0 {
		if err := s.processes(ctx, &l, c.Inode); err != nil {
			return nil, err
		}
	}
	if text := s.lacks(sock); text != "" {
		l.add("lacks", "%s", text)
	} else if locked != "" {
		l.add("lacks", "what the kernel tells under the lock of the socket (%s)", locked)
	}
	return l, nil
}

// withInfo returns sock as it is now, with all that sock_diag tells. Of
// these attributes it is INET_DIAG_INFO for which the kernel locks the socket.
func (s *Stack) withInfo(ctx context.Context, sock *socket) (*socket, error) {
	return ask(ctx, &s.env.Engine.locks, sock.uid, detailsPatience, func() (*socket, error) {
		if inTurn() && sock.inode != 0 {
			info, err := s.infoOfHolder(ctx, sock)
			if err != nil {
				return nil, err
			}
			full := *sock
			full.attrs = slices.Concat(full.attrs, nl.NewRtAttr(diagInfo, info).Serialize())
			return &full, nil
		}
		return s.tables.exactly(ctx, &sock.entry, sock.links, diagInfo, diagCong, diagTOS, diagTClass, diagSKMemInfo, diagShutdown)
	})
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "inet6"
	}
	return "inet"
}

// lacks says what there is not of a socket, and why.
func (s *Stack) lacks(sock *socket) string {
	switch {
	case sock.timer == timerTimeWait || sock.state == soccr.TimeWait:
		return "owner, queues, checkpoint (the connection has ended, the kernel only keeps its addresses from being used again)"
	case sock.mini():
		return "owner, queues, checkpoint (the handshake is not finished)"
	case sock.state == soccr.Listen:
		return "checkpoint (a listener has nothing to save)"
	case sock.inode == 0 && !s.env.Engine.withoutFile():
		return "owner, checkpoint (it is not accepted yet or its owner has closed it, and repair mode needs a descriptor of it)"
	case sock.inode == 0:
		return "owner (it is not accepted yet, or its owner has closed it)"
	}
	return ""
}

// processes adds a line for each process that holds the socket.
func (s *Stack) processes(ctx context.Context, l *lines, inode uint64) error {
	found, err := s.env.Holders.find(ctx, inode)
	if err != nil {
		return err
	}
	last := 0
	for _, h := range found[inode] {
		if h.PID == last {
			continue
		}
		last = h.PID
		if name := peer.Command(h.PID); name != "" {
			l.add(stacknode.KeyProcess, "%d (%s)", h.PID, name)
		}
	}
	return nil
}

// attributes adds what the attributes of sock say.
func (l *lines) attributes(sock *socket) {
	if text := sock.timerText(); text != "" {
		l.add("timer", "%s", text)
	}
	attrs, err := nl.ParseRouteAttr(sock.attrs)
	if err != nil {
		return
	}
	byType := map[uint16][]byte{}
	for _, a := range attrs {
		byType[a.Attr.Type] = a.Value
	}
	ne := binary.NativeEndian
	if b := byType[diagCong]; len(b) > 0 {
		l.add("congestion", "%s", strings.TrimRight(string(b), "\x00"))
	}
	if b := byType[diagInfo]; len(b) > 0 && sock.state != soccr.Listen {
		l.tcpInfo(b)
	}
	if b := byType[diagSKMemInfo]; len(b) >= 9*4 {
		// SK_MEMINFO_* of <linux/sock_diag.h>, with the letters of ss -m.
		l.add("memory", "r%d rb%d t%d tb%d f%d w%d o%d bl%d d%d", ne.Uint32(b), ne.Uint32(b[4:]), ne.Uint32(b[8:]),
			ne.Uint32(b[12:]), ne.Uint32(b[16:]), ne.Uint32(b[20:]), ne.Uint32(b[24:]), ne.Uint32(b[28:]), ne.Uint32(b[32:]))
	}
	if b := byType[diagShutdown]; len(b) == 1 && b[0] != 0 {
		l.add("shutdown", "%s", [...]string{"no", "read", "write", "read, write"}[b[0]&3])
	}
	for _, n := range []struct {
		attr uint16
		key  string
	}{{diagTOS, "tos"}, {diagTClass, "tclass"}} {
		if b := byType[n.attr]; len(b) == 1 && b[0] != 0 {
			l.add(n.key, "%#x", b[0])
		}
	}
	if b := byType[diagMark]; len(b) == 4 && ne.Uint32(b) != 0 {
		l.add("mark", "%#x", ne.Uint32(b))
	}
	if b := byType[diagCgroupID]; len(b) == 8 {
		l.add("cgroup", "%d", ne.Uint64(b))
	}
	if b := byType[diagULP]; len(b) > 0 {
		l.add("ulp", "%s", ulpName(b))
	}
	if b := byType[diagMD5]; len(b) > 0 {
		l.add("md5", "true")
	}
}

// ulpName returns the name in the attribute of an upper layer protocol: its
// own attribute 1, INET_ULP_INFO_NAME.
func ulpName(b []byte) string {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return "unknown"
	}
	for _, a := range attrs {
		if a.Attr.Type == 1 {
			return strings.TrimRight(string(a.Value), "\x00")
		}
	}
	return "unknown"
}

// A unit says how a number of tcp_info is written.
type unit uint8

const (
	plain  unit = iota
	micros      // microseconds, written as milliseconds
)

func (u unit) format(n uint64) string {
	if u == micros {
		return strconv.FormatFloat(float64(n)/1000, 'f', -1, 64)
	}
	return strconv.FormatUint(n, 10)
}

// infoFields are those of struct tcp_info, <linux/tcp.h>. Kernels add more at
// its end; one that is not there is left out. Rates are bytes a second,
// windows bytes, cwnd, ssthresh, unacked, lost and the like segments.
var infoFields = []struct {
	key    string
	offset int
	size   int // bytes
	unit   unit
	zero   bool // also if it is zero
}{
	{"rtt-ms", 68, 4, micros, true},
	{"rttvar-ms", 72, 4, micros, true},
	{"min-rtt-ms", 148, 4, micros, false},
	{"rto-ms", 8, 4, micros, true},
	{"ato-ms", 12, 4, micros, false},
	{"cwnd", 80, 4, plain, true},
	{"ssthresh", 76, 4, plain, true},
	{"mss", 16, 4, plain, true},
	{"pmtu", 60, 4, plain, true},
	{"rcv-mss", 20, 4, plain, true},
	{"adv-mss", 84, 4, plain, true},
	{"snd-wnd", 228, 4, plain, true},
	{"rcv-wnd", 232, 4, plain, true},
	{"rcv-space", 96, 4, plain, true},
	{"rcv-ssthresh", 64, 4, plain, false},
	{"rcv-rtt-ms", 92, 4, micros, false},
	{"unacked", 24, 4, plain, true},
	{"notsent", 144, 4, plain, true},
	{"retransmits", 2, 1, plain, true},
	{"retrans", 36, 4, plain, true},
	{"retrans-total", 100, 4, plain, true},
	{"lost", 32, 4, plain, true},
	{"sacked", 28, 4, plain, false},
	{"backoff", 4, 1, plain, false},
	{"probes", 3, 1, plain, false},
	{"reordering", 88, 4, plain, false},
	{"reord-seen", 220, 4, plain, false},
	{"dsack-dups", 216, 4, plain, false},
	{"out-of-order", 224, 4, plain, false},
	{"bytes-sent", 200, 8, plain, true},
	{"bytes-retrans", 208, 8, plain, true},
	{"bytes-acked", 120, 8, plain, true},
	{"bytes-received", 128, 8, plain, true},
	{"segs-out", 136, 4, plain, true},
	{"segs-in", 140, 4, plain, true},
	{"data-segs-out", 156, 4, plain, true},
	{"data-segs-in", 152, 4, plain, true},
	{"delivered", 192, 4, plain, true},
	{"delivered-ce", 196, 4, plain, false},
	{"pacing-rate", 104, 8, plain, true},
	{"max-pacing-rate", 112, 8, plain, false},
	{"delivery-rate", 160, 8, plain, true},
	{"busy-ms", 168, 8, micros, true},
	{"rwnd-limited-ms", 176, 8, micros, false},
	{"sndbuf-limited-ms", 184, 8, micros, false},
	{"last-sent-ms", 44, 4, plain, true},
	{"last-received-ms", 52, 4, plain, true},
	{"last-ack-ms", 56, 4, plain, true},
	{"rehash", 236, 4, plain, false},
	{"rto-total", 240, 2, plain, false},
}

// unlimited is what the kernel says for a limit that is none.
func unlimited(n uint64, size int) bool {
	return size == 8 && n == ^uint64(0) || size == 4 && n >= 0x7fffffff
}

// tcpInfo adds what b, a struct tcp_info, says.
func (l *lines) tcpInfo(b []byte) {
	if len(b) < 104 {
		return // no kernel since 2.6.12 has less
	}
	l.add("options", "%s", infoOptions(b))
	ne := binary.NativeEndian
	for _, f := range infoFields {
		if f.offset+f.size > len(b) {
			continue
		}
		var n uint64
		switch v := b[f.offset:]; f.size {
		case 1:
			n = uint64(v[0])
		case 2:
			n = uint64(ne.Uint16(v))
		case 4:
			n = uint64(ne.Uint32(v))
		case 8:
			n = ne.Uint64(v)
		}
		switch {
		case n == 0 && !f.zero, unlimited(n, f.size) && !f.zero:
		case unlimited(n, f.size):
			l.add(f.key, "none")
		default:
			l.add(f.key, "%s", f.unit.format(n))
		}
	}
	if b[7]&1 != 0 {
		l.add("app-limited", "true")
	}
}

// infoOptions names what the two sides agreed on, as ss(8) does.
func infoOptions(b []byte) string {
	var words []string
	for _, o := range []struct {
		bit  uint8
		name string
	}{
		{soccr.OptTimestamps, "ts"}, {soccr.OptSACK, "sack"}, {soccr.OptECN, "ecn"},
		{soccr.OptECNSeen, "ecnseen"}, {soccr.OptSynData, "fastopen"}, {soccr.OptUsecTS, "usec_ts"},
	} {
		if b[5]&o.bit != 0 {
			words = append(words, o.name)
		}
	}
	if b[5]&soccr.OptWscale != 0 {
		words = append(words, fmt.Sprintf("wscale:%d,%d", b[6]&0xf, b[6]>>4))
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, " ")
}
