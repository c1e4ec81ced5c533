package soccr

import (
	"fmt"
	"net/netip"
	"time"
)

// A State is the state of a TCP socket, with the kernel's numbers
// (include/net/tcp_states.h).
type State uint8

const (
	Established State = 1 + iota
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
)

var stateNames = [...]string{
	"unknown", "established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait",
	"close", "close-wait", "last-ack", "listen", "closing", "new-syn-recv",
}

// String returns the name that ss(8) uses.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// ParseState is the inverse of [State.String].
func ParseState(name string) (State, error) {
	for i, n := range stateNames {
		if i > 0 && n == name {
			return State(i), nil
		}
	}
	return 0, fmt.Errorf("unknown TCP state %q", name)
}

// Saveable tells whether a connection in this state can be saved and
// restored: the eight states that have a full socket and are not LISTEN.
func (s State) Saveable() bool {
	switch s {
	case Established, SynSent, FinWait1, FinWait2, Close, CloseWait, LastAck, Closing:
		return true
	}
	return false
}

// Data is what the kernel needs to go on with a connection, apart from the
// bytes in its queues: the fields of struct libsoccr_sk_data, with their
// meanings. doc.go draws the sequence numbers.
type Data struct {
	State State

	InqLen  uint32 // bytes in Conn.Recv
	InqSeq  uint32 // rcv_nxt: the next byte that is expected, after a FIN of the peer 1 more than the bytes
	OutqLen uint32 // bytes in Conn.Send: sent and not acknowledged, then not sent
	OutqSeq uint32 // write_seq: the number after the last byte, after our FIN 1 more
	UnsqLen uint32 // how many bytes at the end of Conn.Send were never sent

	OptMask   uint32 // TCPI_OPT_*: what was negotiated
	MSSClamp  uint32 // bytes
	SndWscale uint32
	RcvWscale uint32
	Timestamp uint32 // our clock for timestamps, as getsockopt(TCP_TIMESTAMP) gives it

	HasWindow bool // the fields below are set (TCP_REPAIR_WINDOW, since 4.8)
	SndWl1    uint32
	SndWnd    uint32
	MaxWindow uint32
	RcvWnd    uint32
	RcvWup    uint32
}

// Bits of Data.OptMask, TCPI_OPT_* of <linux/tcp.h>.
const (
	OptTimestamps = 1
	OptSACK       = 2
	OptWscale     = 4
	OptECN        = 8
	OptECNSeen    = 16
	OptSynData    = 32
	OptUsecTS     = 64
)

// A Conn is one TCP connection, complete: what [Restore] makes a socket
// from. Its memory belongs to whoever holds the Conn; nothing of this module
// keeps or changes it after the call that it was passed to or returned by.
type Conn struct {
	Data

	// Family is AF_INET or AF_INET6, that of the socket. A v4-mapped
	// connection has AF_INET6 and addresses for which Is4In6 holds.
	Family int
	// Local and Remote; a link-local IPv6 address has the name of its
	// interface as zone. Remote is invalid where a socket in CLOSE has
	// forgotten it.
	Local, Remote netip.AddrPort

	// Recv is what the peer sent and the owner did not read yet; Send what
	// the owner wrote and the peer did not acknowledge yet. Neither has a
	// FIN.
	Recv, Send []byte

	// Shutdown has bit 0 set when the owner shut down reading, bit 1 for
	// writing (sk_shutdown).
	Shutdown uint8

	Options    Options
	Congestion string // name of the congestion control; empty: not known
	Device     string // SO_BINDTODEVICE; empty: none

	Meta Meta
	Info Info
}

// Options are the socket options that TCP_REPAIR does not carry, by the name
// of the kernel's constant ("TCP_NODELAY", "SO_LINGER"). What is not there is
// not known and stays as the kernel makes it. Times are in the unit of the
// option but for SO_RCVTIMEO and SO_SNDTIMEO, which are in microseconds;
// SO_LINGER is -1 when it is off, else in seconds; SO_RCVBUF and SO_SNDBUF are
// what getsockopt(2) returns, twice what was set. See OptionNames.
type Options map[string]int64

// Meta says where and when a connection was saved.
type Meta struct {
	Cookie  uint64    // SO_COOKIE of the socket that was saved
	Inode   uint64    // of that socket on sockfs; 0: it has no file
	UID     uint32    // owner of that socket
	Time    time.Time // of the snapshot
	Live    bool      // the connection went on afterwards: the image is stale as soon as a byte moves
	Method  string    // "bpf" or "repair"
	NetNS   uint64    // SO_NETNS_COOKIE; 0: not known
	Stack   string    // name of the stack it was saved on
	Version string    // of the program that saved it
}

// Info is what a restored connection starts over with; it is kept for
// people to see.
type Info struct {
	SndCwnd     uint32        // segments
	SndSsthresh uint32        // segments
	RTT, RTTVar time.Duration // smoothed
	Retransmits uint32        // in a row, of the segment at the head
	// Lost names what the connection had that no restore brings back, for
	// people ("socket filter", "4096 out-of-order bytes").
	Lost []string
}
