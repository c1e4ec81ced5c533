package snapshot

import (
	"math"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// Bits of bpfSlot.Flags (enum sock_flags) and InetFlags (INET_FLAGS_*), the
// same in all kernels from 6.1 to 6.18.
const (
	sockURGInline  = 1 << 2
	sockKeepOpen   = 1 << 3
	sockLinger     = 1 << 4
	sockLocalRoute = 1 << 13

	inetRecvErr           = 1 << 9
	inetFreeBind          = 1 << 11
	inetTransparent       = 1 << 15
	inetBindAddressNoPort = 1 << 18
	inetRecvErr6          = 1 << 26
)

// options returns the options that this kernel has and that are set.
func (o *bpfSlot) options(f *facts) soccr.Options {
	opts := make(soccr.Options, len(f.known))
	for _, name := range f.known {
		if name.Flags&soccr.FlagInet6 != 0 && o.Family != unix.AF_INET6 {
			continue
		}
		if v, set := o.option(name.Name, f.hz); set {
			opts[name.Name] = v
		}
	}
	return opts
}

// option returns the value of an option as getsockopt(2) tells it, and false
// where the owner did not set it. It knows all that soccr.OptionNames names;
// the fields of the kernel stand there.
func (o *bpfSlot) option(name string, hz int64) (v int64, set bool) {
	switch name {
	case "IPV6_V6ONLY":
		return int64(o.V6only), true
	case "SO_REUSEADDR":
		return bit(uint64(o.Reuse), ^uint64(0)), true
	case "SO_REUSEPORT":
		return int64(o.Reuseport), true
	case "SO_MARK":
		return int64(o.Mark), true
	case "SO_PRIORITY":
		return int64(o.Priority), true
	case "SO_DONTROUTE":
		return bit(o.Flags, sockLocalRoute), true
	case "SO_KEEPALIVE":
		return bit(o.Flags, sockKeepOpen), true
	case "SO_OOBINLINE":
		return bit(o.Flags, sockURGInline), true
	case "SO_LINGER":
		if o.Flags&sockLinger == 0 {
			return -1, true
		}
		return o.Lingertime / hz, true
	case "SO_RCVTIMEO":
		return microseconds(o.Rcvtimeo, hz), true
	case "SO_SNDTIMEO":
		return microseconds(o.Sndtimeo, hz), true
	case "SO_MAX_PACING_RATE":
		return int64(o.MaxPacingRate), true // ~0 becomes -1
	case "SO_BUSY_POLL":
		return int64(o.LlUsec), true
	case "SO_SNDBUF":
		return int64(o.Sndbuf), true
	case "SO_RCVBUF":
		return int64(o.Rcvbuf), true
	case "SO_BUF_LOCK":
		return int64(o.Userlocks & 3), true
	case "SO_RCVLOWAT":
		return int64(o.Rcvlowat), true
	case "SO_PEEK_OFF":
		return int64(o.PeekOff), true
	}
	if v, set, ok := o.inetOption(name); ok {
		return v, set
	}
	return o.tcpOption(name, hz)
}

// inetOption is option for the IP_ and IPV6_ ones.
func (o *bpfSlot) inetOption(name string) (v int64, set, ok bool) {
	switch name {
	case "IP_FREEBIND":
		return bit(o.InetFlags, inetFreeBind), true, true
	case "IP_TRANSPARENT":
		return bit(o.InetFlags, inetTransparent), true, true
	case "IP_BIND_ADDRESS_NO_PORT":
		return bit(o.InetFlags, inetBindAddressNoPort), true, true
	case "IP_RECVERR":
		return bit(o.InetFlags, inetRecvErr), true, true
	case "IPV6_RECVERR":
		return bit(o.InetFlags, inetRecvErr6), true, true
	case "IP_MTU_DISCOVER":
		return int64(o.Pmtudisc), true, true
	case "IPV6_MTU_DISCOVER":
		return int64(o.Pmtudisc6), true, true
	case "IP_TOS":
		return int64(o.Tos &^ 3), true, true // without ECN's bits
	case "IPV6_TCLASS":
		return int64(o.Tclass &^ 3), true, true
	case "IP_TTL":
		return int64(o.UcTtl), o.UcTtl >= 0, true
	case "IPV6_UNICAST_HOPS":
		return int64(o.HopLimit), o.HopLimit >= 0, true
	case "IP_MINTTL":
		return int64(o.MinTtl), true, true
	case "IPV6_MINHOPCOUNT":
		return int64(o.MinHopcount), true, true
	}
	return 0, false, false
}

// tcpOption is option for the TCP_ ones. In most of those that can be "not
// set" that is a field of 0.
func (o *bpfSlot) tcpOption(name string, hz int64) (v int64, set bool) {
	switch name {
	case "TCP_NODELAY":
		return bit(uint64(o.Nonagle), 1), true
	case "TCP_CORK":
		return bit(uint64(o.Nonagle), 2), true
	case "TCP_KEEPIDLE":
		return int64(o.KeepaliveTime) / hz, o.KeepaliveTime != 0
	case "TCP_KEEPINTVL":
		return int64(o.KeepaliveIntvl) / hz, o.KeepaliveIntvl != 0
	case "TCP_KEEPCNT":
		return int64(o.KeepaliveProbes), o.KeepaliveProbes != 0
	case "TCP_SYNCNT":
		return int64(o.SynRetries), o.SynRetries != 0
	case "TCP_LINGER2":
		if o.Linger2 < 0 {
			return -1, true
		}
		return int64(o.Linger2) / hz, o.Linger2 != 0
	case "TCP_USER_TIMEOUT":
		return int64(o.UserTimeout), true
	case "TCP_THIN_LINEAR_TIMEOUTS":
		return int64(o.ThinLto), true
	case "TCP_INQ":
		return int64(o.RecvmsgInq), true
	case "TCP_MAXSEG":
		return int64(o.UserMss), o.UserMss != 0
	case "TCP_NOTSENT_LOWAT":
		return int64(o.NotsentLowat), true
	case "TCP_WINDOW_CLAMP":
		return int64(int32(o.WindowClamp)), true
	}
	return 0, false
}

func bit(bits, mask uint64) int64 {
	if bits&mask != 0 {
		return 1
	}
	return 0
}

// microseconds converts jiffies as the kernel's sock_get_timeout does, where
// MAX_SCHEDULE_TIMEOUT is for ever.
func microseconds(jiffies, hz int64) int64 {
	if jiffies == math.MaxInt64 {
		return 0
	}
	return jiffies/hz*1e6 + jiffies%hz*1e6/hz
}
