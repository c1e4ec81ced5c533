package main

import (
	"fmt"
	"strconv"
)

// The types below are the configuration as it is written; their toml tags
// are all the keys there are. Pointers are nil for keys that are not there.

type fileConfig struct {
	Discover      *bool                `toml:"discover"`
	DiscoverMode  *string              `toml:"discover_mode"`
	DiscoverOwner *account             `toml:"discover_owner"`
	DiscoverGroup *account             `toml:"discover_group"`
	Checkpoint    *string              `toml:"checkpoint"`
	StateDir      *string              `toml:"state_dir"`
	Stack         map[string]fileStack `toml:"stack"`
}

func (f fileConfig) accessKeys() accessKeys {
	return accessKeys{f.DiscoverMode, f.DiscoverOwner, f.DiscoverGroup}
}

// inlineStack is the document around the table that "stackfs add" takes.
type inlineStack struct {
	Stack fileStack `toml:"stack"`
}

// A fileStack is one [stack.NAME] table.
type fileStack struct {
	Backend *string     `toml:"backend"`
	Mode    *string     `toml:"mode"`
	Owner   *account    `toml:"owner"`
	Group   *account    `toml:"group"`
	Foreign *bool       `toml:"foreign"`
	Grant   []fileGrant `toml:"grant"`

	Connections *string  `toml:"connections"`
	RestoreFrom []string `toml:"restore_from"`

	Netns      *string     `toml:"netns"`
	PID        *int64      `toml:"pid"`
	Path       *string     `toml:"path"`
	Create     *bool       `toml:"create"`
	Addresses  []string    `toml:"addresses"`
	Routes     []string    `toml:"routes"`
	Lo         *bool       `toml:"lo"`
	ResolvConf *string     `toml:"resolv_conf"`
	Sysctl     sysctls     `toml:"sysctl"`
	MPTCP      *bool       `toml:"mptcp"`
	Uplink     *fileUplink `toml:"uplink"`

	Spawn         *int64 `toml:"spawn"`
	TagOpened     *bool  `toml:"tag_opened"`
	MigrateSysctl *bool  `toml:"migrate_sysctl"`
}

func (f fileStack) accessKeys() accessKeys { return accessKeys{f.Mode, f.Owner, f.Group} }

// A fileGrant is one [[stack.NAME.grant]] table.
type fileGrant struct {
	Users  []account `toml:"users"`
	Groups []account `toml:"groups"`
	Allow  []string  `toml:"allow"`
}

// A fileUplink is a [stack.NAME.uplink] table.
type fileUplink struct {
	Type          *string  `toml:"type"`
	Name          *string  `toml:"name"`
	Peer          *string  `toml:"peer"`
	Bridge        *string  `toml:"bridge"`
	Parent        *string  `toml:"parent"`
	PeerAddresses []string `toml:"peer_addresses"`
	MAC           *string  `toml:"mac"`
	MTU           *int64   `toml:"mtu"`
}

// accessKeys are the three keys that make an access.
type accessKeys struct {
	mode         *string
	owner, group *account
}

// An account is a user or a group: a name, or its number as a string or an
// integer.
type account string

// UnmarshalTOML implements toml.Unmarshaler.
func (a *account) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case string:
		*a = account(v)
	case int64:
		*a = account(strconv.FormatInt(v, 10))
	default:
		return fmt.Errorf("is %s, want a name or a number", tomlType(v))
	}
	return nil
}

// sysctls are kernel settings by name. A value is a string or an integer;
// TOML makes tables of names with dots that are not quoted, which are names
// with dots again here.
type sysctls map[string]string

// UnmarshalTOML implements toml.Unmarshaler.
func (s *sysctls) UnmarshalTOML(v any) error {
	table, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("is %s, want a table", tomlType(v))
	}
	*s = sysctls{}
	return s.flatten("", table)
}

func (s sysctls) flatten(prefix string, table map[string]any) error {
	for key, v := range table {
		key = prefix + key
		if _, twice := s[key]; twice {
			return fmt.Errorf("%q is set twice", key)
		}
		switch v := v.(type) {
		case string:
			s[key] = v
		case int64:
			s[key] = strconv.FormatInt(v, 10)
		case map[string]any:
			if err := s.flatten(key+".", v); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%q is %s, want a string or an integer", key, tomlType(v))
		}
	}
	return nil
}
