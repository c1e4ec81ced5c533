package snapshot

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// A row is a socket that sock_diag tells of, which also makes its cookie.
type row struct {
	cookie uint64
	inode  uint32
	state  soccr.State
	local  uint16 // port
}

// mustList lists the TCP sockets over IPv4 in a namespace.
func mustList(t testing.TB, ns *space) []row {
	t.Helper()
	var rows []row
	ns.mustDo(t, func() error {
		socks, err := netlink.SocketDiagTCP(unix.AF_INET)
		for _, s := range socks {
			rows = append(rows, row{
				cookie: uint64(s.ID.Cookie[1])<<32 | uint64(s.ID.Cookie[0]),
				inode:  s.INode,
				state:  soccr.State(s.State),
				local:  s.ID.SourcePort,
			})
		}
		return err
	})
	return rows
}
