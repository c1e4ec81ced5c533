// Package uapi is the Go mirror of stackfs.h, the ABI of a stack node: the
// same names in the same order, padding explicit. layout_test.go compares
// both.
package uapi

import "structs"

// ABI version that this package speaks.
const (
	ABIMajor = 1
	ABIMinor = 2
)

// Kinds of stacks.
const (
	KindKernel = 1
	KindNetns  = 2
	KindNull   = 3
	KindFast   = 4
)

// Flags and results.
const (
	FeatureConns = 1 << 0
	FeatureFast  = 1 << 1

	InfoSelf    = 1 << 0
	InfoForeign = 1 << 1
	InfoEtc     = 1 << 2

	MsocketMake = 1 << 0

	ResultSent = 0
	ResultSelf = 1

	ChanClosed = 1 << 0

	// BoxMore asks for another clone in a box.
	BoxMore = 'm'

	PageMagic   = 0x73746670
	PageVersion = 1

	SteerNone     = 0
	SteerBalanced = 1
	SteerSkewed   = 2
	SteerOff      = 3

	SlotTagged = 1 << 0
	SlotPinned = 1 << 1

	// RunDomain is the address family by which a process under a filter
	// hands in the ticket of a nested run.
	RunDomain = 0x73746b66
)

// EnvRun is the variable in the environment of a program under stackfs run
// that has the path of its stack.
const EnvRun = "STACKFS_RUN"

// Version answers IocVersion.
type Version struct {
	_        structs.HostLayout
	Major    uint32
	Minor    uint32
	Features uint64
	Resv     [4]uint32
}

// Info answers IocInfo.
type Info struct {
	_           structs.HostLayout
	Kind        uint32
	Flags       uint32
	Families    uint64
	NetnsCookie uint64
	Name        [64]byte
	Resv        [4]uint32
}

// Msocket is the argument of IocMsocket.
type Msocket struct {
	_           structs.HostLayout
	Domain      int32
	Type        int32
	Protocol    int32
	Flags       uint32
	ReplyCookie uint64
	ReplyFD     int32
	Result      uint32
	Resv        [4]uint32
}

// Run is the argument of IocRun.
type Run struct {
	_          structs.HostLayout
	ListenerFD int32
	Flags      uint32
	Families   uint64
	Ticket     uint64
	Resv       [4]uint32
}

// Restore is the argument of IocRestore.
type Restore struct {
	_           structs.HostLayout
	ReplyCookie uint64
	ReplyFD     int32
	Flags       uint32
	Resv        [4]uint32
}

// Listen is the argument of IocListen.
type Listen struct {
	_              structs.HostLayout
	ReplyCookie    uint64
	ReplyFD        int32
	ListenerFD     int32
	ListenerCookie uint64
	Flags          uint32
	BoxSize        uint32
	Resv           [4]uint32
}

// Clone is a message in the box.
type Clone struct {
	_      structs.HostLayout
	Cookie uint64
	Resv   [2]uint32
}

// Slot is the part of a page for one CPU.
type Slot struct {
	_       structs.HostLayout
	Tid     uint32
	Flags   uint32
	Clone   uint64
	Local   uint64
	Remote  uint64
	Arrived uint64
	Resv    [3]uint64
}

// Page is the head of a page. Its slots follow.
type Page struct {
	_       structs.HostLayout
	Magic   uint32
	Version uint32
	Slots   uint32
	Resv0   uint32
	Workers uint32
	Mode    uint32
	Reason  uint32
	Resv1   uint32
	Since   uint64
	Shared  uint64
	Resv2   [10]uint64
}

// ChanReq asks for a further socket on a channel.
type ChanReq struct {
	_        structs.HostLayout
	Seq      uint32
	Flags    uint32
	Domain   int32
	Type     int32
	Protocol int32
	Resv     uint32
}

// ChanRep answers a ChanReq; with Error 0 the message carries the socket.
type ChanRep struct {
	_     structs.HostLayout
	Seq   uint32
	Error int32
	Flags uint32
	Resv  uint32
}
