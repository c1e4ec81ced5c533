package main

import (
	"fmt"
	"slices"

	"github.com/stackfs/stackfs/stacknode"
)

// A checkpointEngine is the value of the key checkpoint: how connections are
// saved.
type checkpointEngine string

const (
	engineAuto   checkpointEngine = "auto"   // BPF, else repair mode
	engineBPF    checkpointEngine = "bpf"    // BPF or not at all
	engineRepair checkpointEngine = "repair" // repair mode under the guardian
	engineOff    checkpointEngine = "off"    // connections are not saved
)

// defaultStateDir has what outlives a boot: the key of the seals and the
// nonces that are used up.
const defaultStateDir = "/var/lib/stackfs"

// checkpoint reads the keys about checkpoints at the top of the file.
func (s *source) checkpoint(f fileConfig, cfg *config) {
	if f.Checkpoint != nil {
		cfg.Checkpoint = checkpointEngine(*f.Checkpoint)
		s.oneOf("checkpoint", *f.Checkpoint, string(engineAuto), string(engineBPF), string(engineRepair), string(engineOff))
	}
	if f.StateDir != nil {
		cfg.StateDir = *f.StateDir
		if !cleanAbs(cfg.StateDir) {
			s.bad("state_dir", "%q is not an absolute path", cfg.StateDir)
		}
	}
}

// conns reads the keys about the connections of the stack name; key is the
// path of its table. VisibleAll stays empty, so that a reload sees no
// difference between the default and the same in writing.
func (s *source) conns(key, name string, f fileStack) stacknode.ConnsSpec {
	var c stacknode.ConnsSpec
	if f.Connections != nil {
		s.oneOf(key+".connections", *f.Connections,
			string(stacknode.VisibleAll), string(stacknode.VisibleOwn), string(stacknode.VisibleOff))
		if v := stacknode.Visibility(*f.Connections); v != stacknode.VisibleAll {
			c.Visible = v
		}
	}
	for i, from := range f.RestoreFrom {
		at := fmt.Sprintf("%s.restore_from[%d]", key, i)
		switch err := stacknode.CheckName(from); {
		case err != nil:
			s.bad(at, "%w", err)
		case from == name:
			s.bad(at, "is the stack itself, whose images are restored here anyway")
		case from == stacknode.NameNull:
			s.bad(at, "the stack null has no connections")
		case slices.Contains(c.RestoreFrom, from):
			s.bad(at, "%s is there twice", from)
		}
		c.RestoreFrom = append(c.RestoreFrom, from)
	}
	return c
}

// oneOf records an error at key if value is none of words.
func (s *source) oneOf(key, value string, words ...string) {
	if !slices.Contains(words, value) {
		s.bad(key, "unknown value %q%s", value, didYouMean(value, words))
	}
}
