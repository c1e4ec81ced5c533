package netns

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"strings"

	"github.com/stackfs/stackfs/stacknode"
)

// An uplink are the options of an uplink, comparable.
type uplink struct {
	Type, Name     string
	Peers          string // names to try on the host, by spaces
	Bridge, Parent string `json:",omitzero"`
	PeerAddrs      string `json:",omitzero"` // by spaces
	MAC            string `json:",omitzero"`
	MTU            int    `json:",omitzero"`
}

func uplinkName(u *stacknode.Uplink) string {
	if u.Name == "" {
		return "eth0"
	}
	return u.Name
}

func uplinkOf(u *stacknode.Uplink, runDir, stack string) uplink {
	up := uplink{Type: u.Type, Name: uplinkName(u), Bridge: u.Bridge, Parent: u.Parent, MAC: u.MAC, MTU: u.MTU}
	if u.Type == "veth" {
		up.Peers = u.Peer
		if u.Peer == "" {
			up.Peers = strings.Join(hostNames(runDir, stack), " ")
		}
	}
	var addrs []string
	for _, p := range u.PeerAddresses {
		addrs = append(addrs, p.String())
	}
	up.PeerAddrs = strings.Join(addrs, " ")
	return up
}

// hostNames returns the default names of the host's end: one that can be
// read where the stack's name fits a link's, then one that no stack of
// another name or mount has.
func hostNames(runDir, stack string) []string {
	const prefix = "sf-"
	var names []string
	plain := !strings.ContainsFunc(stack, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.'
	})
	if plain && len(prefix+stack) <= maxLinkName {
		names = append(names, prefix+stack)
	}
	sum := sha256.Sum256([]byte(runDir + "\x00" + stack))
	return append(names, prefix+hex.EncodeToString(sum[:6]))
}

func hwAddr(s string) net.HardwareAddr {
	a, _ := net.ParseMAC(s) // Check has seen it
	return a
}
