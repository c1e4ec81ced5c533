package fast

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options that package unix does not name.
const (
	soGetFilter       = unix.SO_GET_FILTER
	soBufLock         = 72 // SO_BUF_LOCK, since 5.14
	soPreferBusyPoll  = 69
	soBusyPollBudget  = 70
	soTxRehash        = 74 // since 5.18
	ipLocalPortRange  = 51 // since 6.3
	ipv6MinHopCount   = 73
	ipv6FreeBind      = 78
	ipv6AutoFlowLabel = 70
	tcpSaveSyn        = 27
	tcpFastOpenNoKey  = 34 // TCP_FASTOPEN_NO_COOKIE
	tcpInq            = 36
	tcpTxDelay        = 37
)

// Bits of SO_BUF_LOCK: the size was set, so the kernel does not tune it.
const (
	lockSndBuf = 1
	lockRcvBuf = 2
)

// An option is one that a clone has of its original.
type option struct {
	level, name int
	size        int // bytes; the most, where it varies
	family      int // 0: every
}

// carried are the options that a listener may have, in an order in which they
// can be set. What an accepted socket inherits is among them. Not here: the
// keys of TCP_MD5SIG and TCP_AO, which cannot be read; filters, see
// checkFilter; SO_REUSEPORT and SO_INCOMING_CPU, which are the group's.
var carried = []option{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR, 4, 0},
	{unix.SOL_SOCKET, unix.SO_BINDTODEVICE, unix.IFNAMSIZ, 0},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 4, 0},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, 4, 0},
	{unix.SOL_SOCKET, unix.SO_DONTROUTE, 4, 0},
	{unix.SOL_SOCKET, unix.SO_LINGER, 8, 0},
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 4, 0},
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO_NEW, 16, 0},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO_NEW, 16, 0},
	{unix.SOL_SOCKET, unix.SO_PRIORITY, 4, 0},
	{unix.SOL_SOCKET, unix.SO_MARK, 4, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_NEW, 4, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 4, 0},
	{unix.SOL_SOCKET, unix.SO_ZEROCOPY, 4, 0},
	{unix.SOL_SOCKET, unix.SO_BUSY_POLL, 4, 0},
	{unix.SOL_SOCKET, soPreferBusyPoll, 4, 0},
	{unix.SOL_SOCKET, soBusyPollBudget, 4, 0},
	{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 8, 0},
	{unix.SOL_SOCKET, soTxRehash, 4, 0},
	{unix.SOL_IP, unix.IP_TOS, 4, 0},
	{unix.SOL_IP, unix.IP_TTL, 4, 0},
	{unix.SOL_IP, unix.IP_MINTTL, 4, 0},
	{unix.SOL_IP, unix.IP_MTU_DISCOVER, 4, 0},
	{unix.SOL_IP, unix.IP_RECVERR, 4, 0},
	{unix.SOL_IP, unix.IP_FREEBIND, 4, 0},
	{unix.SOL_IP, unix.IP_TRANSPARENT, 4, 0},
	{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 4, 0},
	{unix.SOL_IP, ipLocalPortRange, 4, 0},
	{unix.SOL_IPV6, unix.IPV6_V6ONLY, 4, unix.AF_INET6},
	{unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, 4, unix.AF_INET6},
	{unix.SOL_IPV6, ipv6MinHopCount, 4, unix.AF_INET6},
	{unix.SOL_IPV6, unix.IPV6_TCLASS, 4, unix.AF_INET6},
	{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, 4, unix.AF_INET6},
	{unix.SOL_IPV6, unix.IPV6_RECVERR, 4, unix.AF_INET6},
	{unix.SOL_IPV6, ipv6FreeBind, 4, unix.AF_INET6},
	{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 4, unix.AF_INET6},
	{unix.SOL_IPV6, ipv6AutoFlowLabel, 4, unix.AF_INET6},
	{unix.SOL_TCP, unix.TCP_CONGESTION, 16, 0},
	{unix.SOL_TCP, unix.TCP_MAXSEG, 4, 0},
	{unix.SOL_TCP, unix.TCP_NODELAY, 4, 0},
	{unix.SOL_TCP, unix.TCP_KEEPIDLE, 4, 0},
	{unix.SOL_TCP, unix.TCP_KEEPINTVL, 4, 0},
	{unix.SOL_TCP, unix.TCP_KEEPCNT, 4, 0},
	{unix.SOL_TCP, unix.TCP_SYNCNT, 4, 0},
	{unix.SOL_TCP, unix.TCP_LINGER2, 4, 0},
	{unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 4, 0},
	{unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, 4, 0},
	{unix.SOL_TCP, unix.TCP_QUICKACK, 4, 0},
	{unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 4, 0},
	{unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, 4, 0},
	{unix.SOL_TCP, unix.TCP_FASTOPEN, 4, 0},
	{unix.SOL_TCP, tcpFastOpenNoKey, 4, 0},
	{unix.SOL_TCP, tcpSaveSyn, 4, 0},
	{unix.SOL_TCP, tcpInq, 4, 0},
	{unix.SOL_TCP, tcpTxDelay, 4, 0},
}

// errFilter is about a socket whose filter a clone would not have.
var errFilter = fmt.Errorf("the listener has a socket filter, which clones would be without: %w", unix.EOPNOTSUPP)

// checkFilter returns an error if fd has a filter: it may be there for
// protection.
func checkFilter(fd int) error {
	var size uint32 // instructions; 0 asks for their number
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, soGetFilter, 0, uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 || size != 0 {
		return errFilter // an eBPF program cannot be read: EACCES
	}
	return nil
}

// A setting is an option with its value.
type setting struct {
	option
	value []byte
}

// settings are what fd has otherwise than a fresh socket of its kind.
func settings(fd, fresh, family int) ([]setting, error) {
	if err := checkFilter(fd); err != nil {
		return nil, err
	}
	var list []setting
	for _, o := range carried {
		if o.family != 0 && o.family != family {
			continue
		}
		value, err := getOption(fd, o)
		if err != nil {
			continue // an option that this kernel lacks
		}
		if usual, err := getOption(fresh, o); err == nil && bytes.Equal(usual, value) {
			continue
		}
		list = append(list, setting{o, value})
	}
	return append(list, buffers(fd)...), nil
}

// buffers returns the sizes of the buffers that were set. The kernel doubles
// what is set, and tells that.
func buffers(fd int) (list []setting) {
	locked, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soBufLock)
	if err != nil {
		return nil // before 5.14
	}
	for _, b := range []struct{ bit, get, set int }{
		{lockSndBuf, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE},
		{lockRcvBuf, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE},
	} {
		size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, b.get)
		if err == nil && locked&b.bit != 0 {
			half := int32(size / 2)
			list = append(list, setting{option{unix.SOL_SOCKET, b.set, 4, 0}, unsafe.Slice((*byte)(unsafe.Pointer(&half)), 4)})
		}
	}
	return list
}

// apply sets them on fd.
func apply(fd int, list []setting) error {
	for _, s := range list {
		err := setOption(fd, s)
		// What can be read but not set is the kernel's own.
		if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
			return fmt.Errorf("option %d of level %d: %w", s.name, s.level, err)
		}
	}
	return nil
}

func getOption(fd int, o option) ([]byte, error) {
	b := make([]byte, o.size)
	n := uint32(o.size)
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(o.name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if e != 0 {
		return nil, e
	}
	return b[:n], nil
}

func setOption(fd int, s setting) error {
	var p unsafe.Pointer
	if len(s.value) > 0 {
		p = unsafe.Pointer(&s.value[0])
	}
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(s.level), uintptr(s.name), uintptr(p), uintptr(len(s.value)), 0)
	if e != 0 {
		return syscall.Errno(e)
	}
	return nil
}
