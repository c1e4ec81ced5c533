package stacknode

import (
	"io/fs"
	"net/netip"
)

// Names that mean the same in every mount.
const (
	NameCtl    = "ctl"
	NameKernel = "kernel"
	NameFast   = "fast"
	NameNull   = "null"
	NameTun    = "tun"
)

// A Kind names a backend.
type Kind string

// The kinds of stacks there are.
const (
	KindKernel Kind = "kernel"
	KindNetns  Kind = "netns"
	KindNull   Kind = "null"
	KindFast   Kind = "fast"
)

// An Origin tells where a stack came from, and so who may remove it.
type Origin string

const (
	OriginBuiltin  Origin = "builtin"  // kernel, fast, null: always there
	OriginConfig   Origin = "config"   // the configuration file
	OriginRuntime  Origin = "runtime"  // mkdir or ctl
	OriginDiscover Origin = "discover" // a named namespace of ip-netns(8)
)

// A Grant gives users and groups a right over a stack that they lack.
type Grant struct {
	UIDs, GIDs []uint32
	Raw        bool // raw sockets of AF_INET and AF_INET6
	Packet     bool // packet sockets
	Checkpoint bool // connections, whoever holds them; restore of any image
}

// Covers tells whether the grant is for id.
func (g Grant) Covers(id Identity) bool {
	for _, u := range g.UIDs {
		if u == id.UID {
			return true
		}
	}
	for _, gid := range g.GIDs {
		if id.InGroup(gid) {
			return true
		}
	}
	return false
}

// A Spec says what a stack is to be: one [stack.NAME] table of the
// configuration. stackfs.toml(5) explains each field.
type Spec struct {
	Name     string
	Kind     Kind
	Mode     fs.FileMode // permission bits
	UID, GID uint32
	Foreign  bool // kernel, fast: serve callers of other namespaces
	Grants   []Grant
	Netns    NetnsSpec
	Conns    ConnsSpec
	Fast     FastSpec
}

// A FastSpec are the options of a fast stack.
type FastSpec struct {
	Spawn         int  // mode: 0 no clones, 1 for workers bound to a CPU, 2 workers are bound
	MPTCP         bool // IPPROTO_MPTCP is allowed; such listeners have no clones
	TagOpened     bool // connections that programs open are listed as the stack's too
	MigrateSysctl bool // where BPF does not work: net.ipv4.tcp_migrate_req = 1
}

// SpawnPin is the mode in which workers are bound to CPUs.
const SpawnPin = 2

// A Visibility says who sees the connections of a stack.
type Visibility string

const (
	VisibleAll Visibility = "all" // whoever may look at the node, as in /proc/net/tcp
	VisibleOwn Visibility = "own" // everybody those of his own sockets, root all
	VisibleOff Visibility = "off" // there are no files of connections
)

// A ConnsSpec are the options about a stack's connections.
type ConnsSpec struct {
	Visible Visibility // empty: VisibleAll
	// RestoreFrom names stacks whose sealed images may be restored here by
	// the user that they were sealed for.
	RestoreFrom []string
}

// A NetnsSpec are the options of a netns stack. At most one of Name, PID
// and Path is set; with none the namespace is made with the stack.
type NetnsSpec struct {
	Name string // below /run/netns
	PID  int
	Path string

	Addresses  []netip.Prefix // on the uplink; on lo without one
	Routes     []Route
	LoDown     bool // leave lo down
	Uplink     *Uplink
	ResolvConf string // path of a file, or its text if it has a newline
	Sysctl     map[string]string
	NoMPTCP    bool // net.mptcp.enabled = 0
}

// A Route is one route of a made namespace.
type Route struct {
	To  netip.Prefix // 0.0.0.0/0 and ::/0 are the default routes
	Via netip.Addr   // invalid: directly reachable
	Dev string       // empty: the uplink
}

// An Uplink connects a namespace to the host or its network.
type Uplink struct {
	Type   string // "veth", "macvlan"
	Name   string // the link inside the namespace; default eth0
	Peer   string // veth: the end on the host; default derived from the stack
	Bridge string // veth: bridge that the host's end joins
	Parent string // macvlan: link on the host
	// PeerAddresses are set on the host's end of a veth without a bridge.
	PeerAddresses []netip.Prefix
	MAC           string
	MTU           int // bytes; 0: the default
}
