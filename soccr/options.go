package soccr

import (
	"golang.org/x/sys/unix"
)

// A Kind is the type that a socket option has at the system call, and how
// its value becomes an int64 in [Options].
type Kind uint8

const (
	KindInt     Kind = iota // int: as it is
	KindUint                // unsigned int: as it is, never negative
	KindBool                // int: 0 or 1
	KindTimeval             // struct timeval: microseconds, 0 is for ever
	KindLinger              // struct linger: -1 is off, else seconds
	KindRate                // unsigned long: bytes per second, -1 is unlimited
)

// An OptionName describes one option of [Options].
type OptionName struct {
	Name  string // the key in Options: the name of the kernel's constant
	Level int    // for setsockopt(2)
	Opt   int
	Kind  Kind
	Flags OptionFlags

	when stage
}

// OptionFlags tell what is special about an option.
type OptionFlags uint8

const (
	// FlagInet6: only AF_INET6 sockets have it. All others are there for both
	// families: the IP_ options of an AF_INET6 socket serve its v4-mapped
	// connections.
	FlagInet6 OptionFlags = 1 << iota
	// FlagDefault: the kernel keeps "not set" apart from the value, and
	// getsockopt(2) then tells the default in force. A reader that sees the
	// field leaves such an option out.
	FlagDefault
	// FlagAuto: the kernel changes the value while the connection lives, so
	// that two readings may differ.
	FlagAuto
)

// A stage is a point in a restore.
type stage uint8

const (
	beforeBind  stage = iota // on the new socket: what routing, binding and the handshake look at
	afterQueues              // what would hinder loading the queues
	afterRepair              // what leaving repair mode changes
)

const (
	sock = unix.SOL_SOCKET
	tcp  = unix.SOL_TCP
	ip   = unix.SOL_IP
	ip6  = unix.SOL_IPV6
)

// options is in the order of writing. Beside each row stands the kernel's
// field (6.18) for those who read it there, where it is not what the name
// says or is kept in another unit.
var options = [...]OptionName{
	// Binding to an address that is not v4-mapped sets it too.
	{"IPV6_V6ONLY", ip6, unix.IPV6_V6ONLY, KindBool, FlagInet6 | FlagAuto, beforeBind},     // sk_ipv6only
	{"SO_REUSEPORT", sock, unix.SO_REUSEPORT, KindBool, 0, beforeBind},                     // sk_reuseport
	{"SO_MARK", sock, unix.SO_MARK, KindUint, 0, beforeBind},                               // sk_mark
	{"SO_DONTROUTE", sock, unix.SO_DONTROUTE, KindBool, 0, beforeBind},                     // SOCK_LOCALROUTE
	{"IP_FREEBIND", ip, unix.IP_FREEBIND, KindBool, 0, beforeBind},                         // INET_FLAGS_FREEBIND; IPV6_FREEBIND is the same bit
	{"IP_TRANSPARENT", ip, unix.IP_TRANSPARENT, KindBool, 0, beforeBind},                   // INET_FLAGS_TRANSPARENT; IPV6_TRANSPARENT is the same bit
	{"IP_BIND_ADDRESS_NO_PORT", ip, unix.IP_BIND_ADDRESS_NO_PORT, KindBool, 0, beforeBind}, // INET_FLAGS_BIND_ADDRESS_NO_PORT
	{"IP_MTU_DISCOVER", ip, unix.IP_MTU_DISCOVER, KindInt, 0, beforeBind},                  // inet_sock.pmtudisc
	{"IPV6_MTU_DISCOVER", ip6, unix.IPV6_MTU_DISCOVER, KindInt, FlagInet6, beforeBind},     // ipv6_pinfo.pmtudisc
	// The two lowest bits of tos and tclass are ECN's and not the owner's:
	// they are masked out.
	{"IP_TOS", ip, unix.IP_TOS, KindInt, 0, beforeBind},                                              // inet_sock.tos & 0xfc
	{"IPV6_TCLASS", ip6, unix.IPV6_TCLASS, KindInt, FlagInet6, beforeBind},                           // ipv6_pinfo.tclass & 0xfc
	{"SO_PRIORITY", sock, unix.SO_PRIORITY, KindUint, 0, beforeBind},                                 // sk_priority; setting IP_TOS changes it
	{"IP_TTL", ip, unix.IP_TTL, KindInt, FlagDefault, beforeBind},                                    // inet_sock.uc_ttl; -1: not set
	{"IP_MINTTL", ip, unix.IP_MINTTL, KindInt, 0, beforeBind},                                        // inet_sock.min_ttl
	{"IPV6_UNICAST_HOPS", ip6, unix.IPV6_UNICAST_HOPS, KindInt, FlagInet6 | FlagDefault, beforeBind}, // ipv6_pinfo.hop_limit; -1: not set
	{"IPV6_MINHOPCOUNT", ip6, unix.IPV6_MINHOPCOUNT, KindInt, FlagInet6, beforeBind},                 // ipv6_pinfo.min_hopcount
	{"IP_RECVERR", ip, unix.IP_RECVERR, KindBool, 0, beforeBind},                                     // INET_FLAGS_RECVERR
	{"IPV6_RECVERR", ip6, unix.IPV6_RECVERR, KindBool, FlagInet6, beforeBind},                        // INET_FLAGS_RECVERR6

	{"SO_KEEPALIVE", sock, unix.SO_KEEPALIVE, KindBool, 0, beforeBind},             // SOCK_KEEPOPEN
	{"SO_OOBINLINE", sock, unix.SO_OOBINLINE, KindBool, 0, beforeBind},             // SOCK_URGINLINE
	{"SO_LINGER", sock, unix.SO_LINGER, KindLinger, 0, beforeBind},                 // SOCK_LINGER, sk_lingertime / HZ
	{"SO_RCVTIMEO", sock, unix.SO_RCVTIMEO, KindTimeval, 0, beforeBind},            // sk_rcvtimeo: jiffies; MAX_SCHEDULE_TIMEOUT is 0
	{"SO_SNDTIMEO", sock, unix.SO_SNDTIMEO, KindTimeval, 0, beforeBind},            // sk_sndtimeo: the same
	{"SO_MAX_PACING_RATE", sock, unix.SO_MAX_PACING_RATE, KindRate, 0, beforeBind}, // sk_max_pacing_rate; ~0 is -1
	{"SO_BUSY_POLL", sock, unix.SO_BUSY_POLL, KindInt, 0, beforeBind},              // sk_ll_usec

	{"TCP_NODELAY", tcp, unix.TCP_NODELAY, KindBool, 0, beforeBind},                           // nonagle & 1
	{"TCP_CORK", tcp, unix.TCP_CORK, KindBool, 0, beforeBind},                                 // nonagle & 2
	{"TCP_KEEPIDLE", tcp, unix.TCP_KEEPIDLE, KindInt, FlagDefault, beforeBind},                // keepalive_time / HZ; 0: not set
	{"TCP_KEEPINTVL", tcp, unix.TCP_KEEPINTVL, KindInt, FlagDefault, beforeBind},              // keepalive_intvl / HZ; 0: not set
	{"TCP_KEEPCNT", tcp, unix.TCP_KEEPCNT, KindInt, FlagDefault, beforeBind},                  // keepalive_probes; 0: not set
	{"TCP_SYNCNT", tcp, unix.TCP_SYNCNT, KindInt, FlagDefault, beforeBind},                    // icsk_syn_retries; 0: not set
	{"TCP_LINGER2", tcp, unix.TCP_LINGER2, KindInt, FlagDefault, beforeBind},                  // linger2 / HZ; 0: not set; below 0: -1
	{"TCP_USER_TIMEOUT", tcp, unix.TCP_USER_TIMEOUT, KindUint, 0, beforeBind},                 // icsk_user_timeout: milliseconds
	{"TCP_THIN_LINEAR_TIMEOUTS", tcp, unix.TCP_THIN_LINEAR_TIMEOUTS, KindBool, 0, beforeBind}, // thin_lto
	{"TCP_INQ", tcp, unix.TCP_INQ, KindBool, 0, beforeBind},                                   // recvmsg_inq
	// What the owner set; 0 (not set) is left out. getsockopt(2) tells it in
	// no state but CLOSE and, in repair mode, SYN_SENT: ReadOptions never does.
	{"TCP_MAXSEG", tcp, unix.TCP_MAXSEG, KindInt, 0, beforeBind}, // rx_opt.user_mss

	{"TCP_NOTSENT_LOWAT", tcp, unix.TCP_NOTSENT_LOWAT, KindUint, 0, afterQueues}, // notsent_lowat
	{"SO_SNDBUF", sock, unix.SO_SNDBUF, KindInt, FlagAuto, afterQueues},          // sk_sndbuf
	{"SO_RCVBUF", sock, unix.SO_RCVBUF, KindInt, FlagAuto, afterQueues},          // sk_rcvbuf
	// Since 5.14. Bit 0: the owner set SO_SNDBUF, bit 1: SO_RCVBUF, and the
	// kernel leaves that size alone.
	{"SO_BUF_LOCK", sock, unix.SO_BUF_LOCK, KindInt, 0, afterQueues}, // sk_userlocks & 3
	{"SO_RCVLOWAT", sock, unix.SO_RCVLOWAT, KindInt, 0, afterQueues}, // sk_rcvlowat
	// The clamp grows with the receive buffer while that is tuned, and no
	// bit tells whether the owner had a hand in it. A new socket starts at
	// the clamp of a new connection, and one whose buffer size is the
	// owner's would stay there, so it is always put back.
	{"TCP_WINDOW_CLAMP", tcp, unix.TCP_WINDOW_CLAMP, KindInt, FlagAuto, afterQueues}, // window_clamp
	// For TCP since 6.9.
	{"SO_PEEK_OFF", sock, unix.SO_PEEK_OFF, KindInt, 0, afterQueues}, // sk_peek_off

	{"SO_REUSEADDR", sock, unix.SO_REUSEADDR, KindBool, 0, afterRepair}, // sk_reuse
}

// OptionNames returns the options that [Conn].Options can have, in the order
// in which [Restore] writes them. Two more are strings and have fields of
// their own: TCP_CONGESTION and SO_BINDTODEVICE.
func OptionNames() []OptionName { return append([]OptionName(nil), options[:]...) }
