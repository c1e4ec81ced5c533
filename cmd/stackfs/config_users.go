package main

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
)

// A userLookup finds the numbers of users and groups.
type userLookup interface {
	// UID returns the number of a user, GID that of a group. The error
	// names what was not found.
	UID(name string) (uint32, error)
	GID(name string) (uint32, error)
}

// systemUsers reads /etc/passwd and /etc/group. Without cgo there is no
// NSS: accounts of a directory service are known by number only.
type systemUsers struct{}

func (systemUsers) UID(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if errors.As(err, new(user.UnknownUserError)) {
			err = fmt.Errorf("no user %q in /etc/passwd (a number will do)", name)
		}
		return 0, err
	}
	return parseID(u.Uid)
}

func (systemUsers) GID(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		if errors.As(err, new(user.UnknownGroupError)) {
			err = fmt.Errorf("no group %q in /etc/group (a number will do)", name)
		}
		return 0, err
	}
	return parseID(g.Gid)
}

// parseID reads the number of a user or group. The last one means "nobody
// in particular" to the kernel and is refused.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, fmt.Errorf("%s is no number of a user or group", s)
	}
	return uint32(n), nil
}

// accountID resolves a name by lookup; a number needs none.
func accountID(a account, lookup func(string) (uint32, error)) (uint32, error) {
	if a == "" {
		return 0, errors.New("is empty, want a name or a number")
	}
	if c := a[0]; c == '-' || c >= '0' && c <= '9' {
		if id, err := parseID(string(a)); err == nil || c == '-' {
			return id, err
		}
	}
	return lookup(string(a))
}
