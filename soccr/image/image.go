package image

import (
	"github.com/stackfs/stackfs/soccr"
)

// Format is the version of the extension that [Encode] writes. [Decode]
// refuses a later one.
const Format = 1

// KeySize is the least length of a key, in bytes.
const KeySize = 32

// The parts of a file, see the package documentation.
const (
	magicCommon = 0x54564319
	magicStream = 0x51465506
	magicFiles  = 0x56303138

	headerSize = 12      // both magics and the length of the entry
	maxEntry   = 1 << 20 // bytes; CRIU's own entry has less than 100
	maxExt     = 32 << 10

	lastKnownField = 17 // of tcp_stream_entry
	extField       = 1000
	digestField    = 1001
	sealField      = 1002

	tagSize   = 3 // number, type and length of fields 1001 and 1002
	sumSize   = 32
	fieldSize = tagSize + sumSize
)

// An Image is what [Decode] found in a file.
type Image struct {
	// Conn is the connection; its memory is the caller's. If the image is
	// Foreign it has what CRIU puts into this file: no state, no addresses
	// and no options but TCP_NODELAY and TCP_CORK. [ReadCRIU] finds the rest.
	Conn *soccr.Conn
	// Foreign is set if CRIU wrote the image: it has no digest.
	Foreign bool
	// Size is that of the file in bytes.
	Size int
	// Seal is what the image says about who may restore it; nil if it is
	// not sealed. Only CheckSeal tells whether it is true.
	Seal *Seal

	raw    []byte // the file; the queues of Conn are in it
	digest int    // offset of field 1001 in raw
}

// A Seal says who may restore an image, and where.
type Seal struct {
	UID    uint32   // who
	BootID [16]byte // /proc/sys/kernel/random/boot_id
	NetNS  uint64   // SO_NETNS_COOKIE, a number within one boot
	Stack  string   // name of the stack
	Nonce  [16]byte // a number that is used once
}

// Options are what Encode may be told.
type Options struct {
	// Seal seals the image under Key, which has at least KeySize bytes;
	// nil: the image is not sealed.
	Seal *Seal
	Key  []byte
}
