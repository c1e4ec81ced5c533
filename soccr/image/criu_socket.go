package image

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"syscall"

	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stackfs/stackfs/soccr"
)

// Fields that CRIU has and go-criu 7.2 does not know yet.
const (
	fieldTCPOpts = 20 // of inet_sk_entry, since CRIU 4.0: tcp_opts_entry
	fieldTOS     = 6  // of ip_opts_entry, since CRIU 4.0
	fieldTTL     = 7
)

// tcpOptsNames are the fields of tcp_opts_entry.
var tcpOptsNames = map[protowire.Number]string{
	1: "TCP_CORK", 2: "TCP_NODELAY", 3: "TCP_KEEPCNT", 4: "TCP_KEEPIDLE", 5: "TCP_KEEPINTVL",
}

// criuAddress makes an address of the words of CRIU, which are in network
// order in memory. CRIU 0.1 had four words for IPv4 too. The interface of a
// link-local address is that of the local one, since CRIU keeps no other.
func criuAddress(isk *sk_inet.InetSkEntry, words []uint32, port uint32) (netip.AddrPort, error) {
	var b [16]byte
	for i := range min(len(words), 4) {
		binary.LittleEndian.PutUint32(b[4*i:], words[i])
	}
	var ip netip.Addr
	switch {
	case port > math.MaxUint16:
		return netip.AddrPort{}, invalidf("files.img has the port %d", port)
	case isk.GetFamily() == syscall.AF_INET && len(words) >= 1:
		ip = netip.AddrFrom4([4]byte(b[:4]))
	case isk.GetFamily() == syscall.AF_INET6 && len(words) == 4:
		ip = netip.AddrFrom16(b)
		if ip.Is4In6() || !ip.IsLinkLocalUnicast() {
			break
		}
		if zone := firstOf(isk.GetIfname(), isk.GetOpts().GetSoBoundDev()); zone != "" {
			ip = ip.WithZone(zone)
		}
	default:
		return netip.AddrPort{}, invalidf("files.img has an address of %d words in the family %d", len(words), isk.GetFamily())
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// fillSocket sets what CRIU keeps in files.img, addresses apart.
func fillSocket(c *soccr.Conn, isk *sk_inet.InetSkEntry) {
	c.Family = int(isk.GetFamily())
	c.State = soccr.State(min(isk.GetState(), math.MaxUint8))
	c.Shutdown = uint8(isk.GetShutdown()) & 3 // the kernel's bits
	if c.Options == nil {
		c.Options = soccr.Options{}
	}
	opts := isk.GetOpts()
	c.Device = opts.GetSoBoundDev()
	fillOptions(c.Options, opts)
	if isk.V6Only != nil {
		c.Options["IPV6_V6ONLY"] = truth(isk.GetV6Only())
	}
	if ip := isk.GetIpOpts(); ip != nil {
		c.Options["IP_FREEBIND"] = truth(ip.GetFreebind())
		more := numbers(ip)
		if tos, ok := more[fieldTOS]; ok {
			c.Options["IP_TOS"] = tos &^ 3 // the lowest two bits are ECN's
		}
		if ttl, ok := more[fieldTTL]; ok {
			c.Options["IP_TTL"] = ttl
		}
	}
	tcp, _, _ := fieldBytes(isk.ProtoReflect().GetUnknown(), fieldTCPOpts) // has been parsed once
	for num, v := range numbersIn(tcp) {
		if name, ok := tcpOptsNames[num]; ok {
			c.Options[name] = v
		}
	}
	if n := len(opts.GetSoFilter()); n > 0 {
		c.Info.Lost = append(c.Info.Lost, fmt.Sprintf("socket filter of %d instructions", n))
	}
}

// fillOptions sets the options of SOL_SOCKET, and those of TCP that CRIU had
// there before 4.0. What is optional in the image and missing is not known.
func fillOptions(o soccr.Options, e *sk_opts.SkOptsEntry) {
	if e == nil {
		return
	}
	o["SO_SNDBUF"] = int64(e.GetSoSndbuf())
	o["SO_RCVBUF"] = int64(e.GetSoRcvbuf())
	o["SO_SNDTIMEO"] = microseconds(e.GetSoSndTmoSec(), e.GetSoSndTmoUsec())
	o["SO_RCVTIMEO"] = microseconds(e.GetSoRcvTmoSec(), e.GetSoRcvTmoUsec())
	o["SO_LINGER"] = -1 // CRIU leaves it out when it is off
	for _, n := range []struct {
		name  string
		value *uint32
	}{
		{"SO_PRIORITY", e.SoPriority}, {"SO_RCVLOWAT", e.SoRcvlowat}, {"SO_MARK", e.SoMark},
		{"SO_OOBINLINE", e.SoOobinline}, {"SO_LINGER", e.SoLinger}, {"SO_BUF_LOCK", e.SoBufLock},
		{"TCP_KEEPCNT", e.TcpKeepcnt}, {"TCP_KEEPIDLE", e.TcpKeepidle}, {"TCP_KEEPINTVL", e.TcpKeepintvl},
	} {
		if n.value != nil {
			o[n.name] = int64(*n.value)
		}
	}
	for _, b := range []struct {
		name  string
		value *bool
	}{
		{"SO_REUSEADDR", e.Reuseaddr}, {"SO_REUSEPORT", e.SoReuseport},
		{"SO_DONTROUTE", e.SoDontroute}, {"SO_KEEPALIVE", e.SoKeepalive},
	} {
		if b.value != nil {
			o[b.name] = truth(*b.value)
		}
	}
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// microseconds makes one number of a struct timeval; a nonsensical one
// becomes -1, which no option takes.
func microseconds(sec, usec uint64) int64 {
	if sec > math.MaxInt64/1_000_000_000 || usec >= 1_000_000 {
		return -1
	}
	return int64(sec*1_000_000 + usec)
}

// fieldBytes returns the content of a field of a message, the last one if it
// is there several times.
func fieldBytes(b []byte, field protowire.Number) (content []byte, found bool, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return nil, false, protowire.ParseError(size)
		}
		if num == field && typ == protowire.BytesType {
			content, _ = protowire.ConsumeBytes(b[n:])
			found = true
		}
		b = b[n+size:]
	}
	return content, found, nil
}

// numbers returns the numeric fields that the type of m does not have.
func numbers(m proto.Message) map[protowire.Number]int64 {
	return numbersIn(m.ProtoReflect().GetUnknown())
}

// numbersIn returns the numeric fields of a message; what follows a broken
// field is not looked at.
func numbersIn(b []byte) map[protowire.Number]int64 {
	found := map[protowire.Number]int64{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		size := protowire.ConsumeFieldValue(num, typ, b[max(n, 0):])
		if n < 0 || size < 0 {
			return found
		}
		if v, m := protowire.ConsumeVarint(b[n:]); typ == protowire.VarintType && m > 0 {
			found[num] = int64(v)
		}
		b = b[n+size:]
	}
	return found
}
