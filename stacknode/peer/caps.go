package peer

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// capsOver returns the capabilities that a thread of the user namespace user
// has over the one that owns netns.
func capsOver(netns *os.File, user stacknode.NSID, euid uint32, eff stacknode.CapSet) (stacknode.CapSet, error) {
	ns, err := nsGetUserNS(netns)
	return capsOverUserNS(ns, err, user, euid, eff)
}

// capsOverUserNS applies ns_capable(9)'s rule (security/commoncap.c,
// cap_capable): a thread has its effective set over its own user namespace,
// everything over a child namespace that its effective uid made, and over
// the children of these; nothing over any other. It closes ns, which err is
// about.
func capsOverUserNS(ns *os.File, err error, user stacknode.NSID, euid uint32, eff stacknode.CapSet) (stacknode.CapSet, error) {
	for err == nil {
		var id, parentID stacknode.NSID
		if id, err = statNSFile(ns); err != nil || id == user {
			break
		}
		var parent *os.File
		var owner uint32
		if owner, err = nsGetOwner(ns); err != nil {
			break
		}
		if parent, err = nsGetParent(ns); err != nil {
			break
		}
		ns.Close()
		ns = parent
		if parentID, err = statNSFile(ns); err != nil {
			break
		}
		if parentID == user && owner == euid {
			eff = ^stacknode.CapSet(0)
			break
		}
	}
	if ns != nil {
		ns.Close()
	}
	// EPERM: the next namespace is above the daemon's own, and so not below
	// the caller's.
	if errors.Is(err, unix.EPERM) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("the user namespace of what is asked for: %w", err)
	}
	return eff, nil
}

// OwnsNetNS tells whether the daemon's user namespace is the one that owns
// netns.
func OwnsNetNS(netns *os.File) (bool, error) {
	own, err := ownUserNS()
	if err != nil {
		return false, err
	}
	ns, err := nsGetUserNS(netns)
	if errors.Is(err, unix.EPERM) {
		return false, nil // one above the daemon's
	}
	if err != nil {
		return false, err
	}
	defer ns.Close()
	id, err := statNSFile(ns)
	return id == own, err
}
