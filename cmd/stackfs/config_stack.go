package main

import (
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/stackfs/stackfs/stacknode"
)

// keysOfKind are the keys that a [stack.NAME] table may have besides
// backend, mode, owner and group. A netns has all but foreign
// and those of fast stacks.
func keysOfKind(kind stacknode.Kind) []string {
	keys := []string{"backend", "mode", "owner", "group"}
	switch kind {
	case stacknode.KindKernel:
		return append(keys, "foreign", "grant", "connections", "restore_from")
	case stacknode.KindFast:
		return append(keys, "foreign", "grant", "connections", "restore_from", "spawn", "mptcp", "tag_opened", "migrate_sysctl")
	case stacknode.KindNull:
		return keys
	}
	return slices.DeleteFunc(tomlKeys(reflect.TypeFor[fileStack]()), func(k string) bool {
		return k == "foreign" || k == "spawn" || k == "tag_opened" || k == "migrate_sysctl"
	})
}

// stack makes the spec of one stack; key is the path of its table. Whatever
// is wrong is recorded, and the result is then of no use.
func (s *source) stack(key, name string, f fileStack, lookup userLookup) stacknode.Spec {
	spec := stacknode.Spec{Name: name, Mode: modeStack}
	if err := stacknode.CheckName(name); err != nil {
		s.bad(key, "%w", err)
	}
	kind, ok := s.kind(key, name, f)
	if !ok {
		return spec
	}
	spec.Kind = kind
	if name == stacknode.NameKernel || name == stacknode.NameNull || name == stacknode.NameFast {
		spec = builtinSpec(kind)
	}
	s.onlyKeys(key, keysOfKind(kind), f, fmt.Sprintf("a stack of backend %q has no such key", kind))

	a := access{Mode: spec.Mode}
	s.access(key+".", f.accessKeys(), lookup, &a)
	spec.Mode, spec.UID, spec.GID = a.Mode, a.UID, a.GID
	spec.Foreign = f.Foreign != nil && *f.Foreign
	for i, g := range f.Grant {
		spec.Grants = append(spec.Grants, s.grant(fmt.Sprintf("%s.grant[%d]", key, i), g, lookup))
	}
	spec.Conns = s.conns(key, name, f)
	switch kind {
	case stacknode.KindNetns:
		spec.Netns = s.netns(key, f)
	case stacknode.KindFast:
		spec.Fast = s.fast(key, f)
	}
	return spec
}

// fast reads the options of a fast stack.
func (s *source) fast(key string, f fileStack) stacknode.FastSpec {
	spec := stacknode.FastSpec{Spawn: stacknode.SpawnPin}
	if f.Spawn != nil {
		if *f.Spawn < 0 || *f.Spawn > stacknode.SpawnPin {
			s.bad(key+".spawn", "%d is no mode: 0 (off), 1 (workers that are bound to a CPU), 2 (workers are bound)", *f.Spawn)
		}
		spec.Spawn = int(*f.Spawn)
	}
	spec.MPTCP = f.MPTCP != nil && *f.MPTCP
	spec.TagOpened = f.TagOpened != nil && *f.TagOpened
	spec.MigrateSysctl = f.MigrateSysctl != nil && *f.MigrateSysctl
	return spec
}

// kind returns what the stack is: by its key backend, else by its name.
func (s *source) kind(key, name string, f fileStack) (stacknode.Kind, bool) {
	kind := stacknode.KindNetns
	fixed := true
	switch name {
	case stacknode.NameKernel:
		kind = stacknode.KindKernel
	case stacknode.NameNull:
		kind = stacknode.KindNull
	case stacknode.NameFast:
		kind = stacknode.KindFast
	default:
		fixed = false
	}
	if f.Backend != nil {
		key += ".backend"
		given := stacknode.Kind(*f.Backend)
		switch given {
		case stacknode.KindKernel, stacknode.KindNetns, stacknode.KindNull, stacknode.KindFast:
		default:
			s.bad(key, "unknown backend %q%s", given, didYouMean(*f.Backend, []string{"kernel", "netns", "fast", "null"}))
			return "", false
		}
		if fixed && given != kind {
			s.bad(key, "the stack %s is always of backend %q (use another name)", name, kind)
			return "", false
		}
		kind = given
	}
	return kind, true
}

// onlyKeys records an error for each key of table, a struct with toml tags,
// that is there but not in allowed.
func (s *source) onlyKeys(key string, allowed []string, table any, why string) {
	v := reflect.ValueOf(table)
	for i, name := range tomlKeys(v.Type()) {
		if !v.Field(i).IsNil() && !slices.Contains(allowed, name) {
			s.bad(joinKey(key, name), "%s", why)
		}
	}
}

// access reads mode, owner and group into a; prefix is what stands before
// these words in the names of the keys.
func (s *source) access(prefix string, keys accessKeys, lookup userLookup, a *access) {
	if keys.mode != nil {
		n, err := strconv.ParseUint(*keys.mode, 8, 32)
		if err != nil || n > 0o777 || len(*keys.mode) < 3 || len(*keys.mode) > 4 {
			s.bad(prefix+"mode", `is %q, want octal permission bits as "0750"`, *keys.mode)
		}
		a.Mode = fs.FileMode(n).Perm()
	}
	var err error
	if keys.owner != nil {
		if a.UID, err = accountID(*keys.owner, lookup.UID); err != nil {
			s.bad(prefix+"owner", "%w", err)
		}
	}
	if keys.group != nil {
		if a.GID, err = accountID(*keys.group, lookup.GID); err != nil {
			s.bad(prefix+"group", "%w", err)
		}
	}
}

// grant reads one grant.
func (s *source) grant(key string, f fileGrant, lookup userLookup) stacknode.Grant {
	var g stacknode.Grant
	if len(f.Users)+len(f.Groups) == 0 {
		s.bad(key, "is for nobody: users or groups is missing")
	}
	if len(f.Allow) == 0 {
		s.bad(key, `gives nothing: allow is missing ("raw", "packet", "checkpoint")`)
	}
	g.UIDs = s.accounts(key+".users", f.Users, lookup.UID)
	g.GIDs = s.accounts(key+".groups", f.Groups, lookup.GID)
	for i, word := range f.Allow {
		switch word {
		case "raw":
			g.Raw = true
		case "packet":
			g.Packet = true
		case "checkpoint":
			g.Checkpoint = true
		default:
			s.bad(fmt.Sprintf("%s.allow[%d]", key, i), "unknown right %q%s", word, didYouMean(word, []string{"checkpoint", "packet", "raw"}))
		}
	}
	return g
}

func (s *source) accounts(key string, list []account, lookup func(string) (uint32, error)) []uint32 {
	var ids []uint32
	for i, a := range list {
		id, err := accountID(a, lookup)
		if err != nil {
			s.bad(fmt.Sprintf("%s[%d]", key, i), "%w", err)
		}
		ids = append(ids, id)
	}
	return ids
}

// inlineDocument makes a document of the keys that "stackfs add" takes.
func inlineDocument(inline string) (string, error) {
	inline = strings.TrimSpace(inline)
	if strings.ContainsAny(inline, "\n\r") {
		return "", fmt.Errorf("the options must be one line")
	}
	if !strings.HasPrefix(inline, "{") {
		inline = "{" + inline + "}"
	}
	return "stack = " + inline, nil
}
