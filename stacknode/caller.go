package stacknode

import (
	"encoding/binary"
	"os"
)

// An NSID identifies a namespace by its inode on nsfs.
type NSID struct{ Dev, Ino uint64 }

// An Identity is what the kernel records of who makes a socket.
type Identity struct {
	UID, GID uint32   // effective ids, in the daemon's user namespace
	Groups   []uint32 // supplementary groups
}

// Key returns a string that is equal for equal identities.
func (id Identity) Key() string {
	b := make([]byte, 0, 8+4*len(id.Groups))
	b = binary.NativeEndian.AppendUint32(b, id.UID)
	b = binary.NativeEndian.AppendUint32(b, id.GID)
	for _, g := range id.Groups {
		b = binary.NativeEndian.AppendUint32(b, g)
	}
	return string(b)
}

// InGroup tells whether gid is the identity's group or one of its groups.
func (id Identity) InGroup(gid uint32) bool {
	if id.GID == gid {
		return true
	}
	for _, g := range id.Groups {
		if g == gid {
			return true
		}
	}
	return false
}

// A CapSet is a set of Linux capabilities, bit n for capability n.
type CapSet uint64

// Capabilities that decide about sockets and their owners. See
// capabilities(7).
const (
	CapNetBindService CapSet = 1 << 10
	CapNetAdmin       CapSet = 1 << 12
	CapNetRaw         CapSet = 1 << 13
	CapSysPtrace      CapSet = 1 << 19
)

// A Caller is the thread that asks for a socket, as the kernel knows it
// while that thread waits for the answer.
type Caller struct {
	PID, TID         int
	UID, GID         uint32 // effective ids, in the daemon's user namespace
	RealUID, RealGID uint32 // what SCM_CREDENTIALS carries

	// Look finds out the rest, once: it takes longer, and a plain socket
	// of another namespace needs none of it.
	Look func() (*Details, error)
}

// NetNS returns the network namespace that the thread is in, the zero NSID
// if that cannot be told.
func (c *Caller) NetNS() NSID {
	d, err := c.Look()
	if err != nil {
		return NSID{}
	}
	return d.NetNS
}

// Details are what a Caller may have to show for a right.
type Details struct {
	Identity
	NetNS NSID

	// SameUserNS tells whether the thread is in the daemon's user
	// namespace.
	SameUserNS bool

	// UserNS is the thread's user namespace, and Caps and Permitted its
	// effective and permitted capabilities over that.
	UserNS          NSID
	Caps, Permitted CapSet

	// CapsOver returns the capabilities that the thread has over the user
	// namespace that owns netns, by the kernel's ns_capable rule.
	CapsOver func(netns *os.File) (CapSet, error)

	// OpenNetNS opens the network namespace that the thread is in.
	OpenNetNS func() (*os.File, error)
}

// A Run is a process tree whose socket calls arrive on a seccomp listener.
type Run struct {
	ID       uint64
	Listener *os.File
	Families FamilySet // others are the process' own
	UID      uint32    // effective uid of who started it

	// Route picks the stack of a thread where runs are nested, and the
	// families that go there. Without nested runs both are the run's own
	// and Nested is false.
	Nested func() bool
	Route  func(tid int) (*Stack, FamilySet, error)

	// Ticket takes the ticket that a nested run hands in.
	Ticket func(tid int, ticket uint64) error

	// Ended is called when nobody answers the listener any more: because
	// no process is left under the filter (hup), or because the stack was
	// closed.
	Ended func(hup bool)
}
