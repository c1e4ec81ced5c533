package soccr

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// tcpInfo is what TCP_INFO tells that a saved connection needs.
type tcpInfo struct {
	state     State
	options   uint32 // TCPI_OPT_*
	sndWscale uint32
	rcvWscale uint32

	forPeople Info
}

// Offsets in struct tcp_info of <linux/tcp.h>. x/sys's TCPInfo has no field
// for the window scales, which are bit fields.
const (
	offState       = 0
	offRetransmits = 2
	offOptions     = 5
	offWscale      = 6
	offRTT         = 68
	offRTTVar      = 72
	offSsthresh    = 76
	offCwnd        = 80
	tcpInfoSize    = 104 // of the first version (2.6)
)

func readInfo(fd int) (tcpInfo, error) {
	var b [tcpInfoSize]byte
	n, err := getsockoptBytes(fd, unix.SOL_TCP, unix.TCP_INFO, b[:])
	if err == nil && n < len(b) {
		err = unix.EIO
	}
	if err != nil {
		return tcpInfo{}, os.NewSyscallError("getsockopt TCP_INFO", err)
	}
	u32 := func(off int) uint32 { return binary.NativeEndian.Uint32(b[off:]) }
	snd, rcv := b[offWscale]&0xf, b[offWscale]>>4
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big endian: the first field is in the high bits
		snd, rcv = rcv, snd
	}
	return tcpInfo{
		state:     State(b[offState]),
		options:   uint32(b[offOptions]),
		sndWscale: uint32(snd),
		rcvWscale: uint32(rcv),
		forPeople: Info{
			SndCwnd:     u32(offCwnd),
			SndSsthresh: u32(offSsthresh),
			RTT:         time.Duration(u32(offRTT)) * time.Microsecond,
			RTTVar:      time.Duration(u32(offRTTVar)) * time.Microsecond,
			Retransmits: uint32(b[offRetransmits]),
		},
	}, nil
}
