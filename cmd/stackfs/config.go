package main

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sort"

	"github.com/stackfs/stackfs/stacknode"
)

// Modes of what the configuration does not mention.
const (
	modeBuiltin fs.FileMode = 0o755 // kernel, fast, null: everybody has them anyway
	modeStack   fs.FileMode = 0o700 // any other stack
)

// A config is a configuration file, checked and with every default filled
// in. stackfs.toml(5) explains the keys.
type config struct {
	// Builtin has kernel, fast and null, in this order, as the file tunes them.
	Builtin []stacknode.Spec
	// Stacks has the other stacks, by name.
	Stacks []stacknode.Spec

	// where finds the table of a stack again, for errors that show only
	// when the stack is made.
	where func(spec stacknode.Spec, err error) error

	Checkpoint checkpointEngine // how connections are saved
	StateDir   string           // absolute path; made when first needed

	Discover   bool   // named namespaces of ip-netns(8) appear by themselves
	DiscoverAs access // with this owner and mode
}

// An access is the owner and the mode of a node.
type access struct {
	Mode     fs.FileMode
	UID, GID uint32
}

// defaultConfiguration is what an empty file means.
func defaultConfiguration() *config {
	return &config{
		Builtin:    []stacknode.Spec{builtinSpec(stacknode.KindKernel), builtinSpec(stacknode.KindFast), builtinSpec(stacknode.KindNull)},
		Checkpoint: engineAuto,
		StateDir:   defaultStateDir,
		Discover:   true,
		DiscoverAs: access{Mode: modeStack},
	}
}

// put makes spec the one of its name.
func (c *config) put(spec stacknode.Spec) {
	for _, list := range [][]stacknode.Spec{c.Builtin, c.Stacks} {
		for i := range list {
			if list[i].Name == spec.Name {
				list[i] = spec
			}
		}
	}
}

// drop forgets the stack of that name.
func (c *config) drop(name string) {
	c.Stacks = slices.DeleteFunc(c.Stacks, func(s stacknode.Spec) bool { return s.Name == name })
}

func builtinSpec(kind stacknode.Kind) stacknode.Spec {
	spec := stacknode.Spec{Name: string(kind), Kind: kind, Mode: modeBuiltin}
	if kind == stacknode.KindFast {
		spec.Fast.Spawn = stacknode.SpawnPin
	}
	return spec
}

// loadConfig reads and checks the configuration at path. Every error that
// it returns for the contents is a *configError, or several of them joined.
// As root it refuses a file that anybody else could have written, since the
// daemon does for its users what the file says.
func loadConfig(path string, lookup userLookup) (*config, error) {
	text, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	return parseConfig(path, text, lookup)
}

// parseConfig checks text; file names it in errors.
func parseConfig(file string, text []byte, lookup userLookup) (*config, error) {
	var raw fileConfig
	src := &source{file: file}
	if err := src.decode(text, &raw); err != nil {
		return nil, err
	}
	cfg := defaultConfiguration()
	if raw.Discover != nil {
		cfg.Discover = *raw.Discover
	}
	src.checkpoint(raw, cfg)
	src.access("discover_", raw.accessKeys(), lookup, &cfg.DiscoverAs)
	names := make([]string, 0, len(raw.Stack))
	for name := range raw.Stack {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		spec := src.stack("stack."+quoteKey(name), name, raw.Stack[name], lookup)
		if i := slices.IndexFunc(cfg.Builtin, func(b stacknode.Spec) bool { return b.Name == spec.Name }); i >= 0 {
			cfg.Builtin[i] = spec
		} else {
			cfg.Stacks = append(cfg.Stacks, spec)
		}
	}
	if err := src.err(); err != nil {
		return nil, err
	}
	if len(cfg.Stacks) > 0 {
		cfg.where = src.locate
	}
	return cfg, nil
}

// locate makes err, about a stack of this source, one that says where that
// is.
func (s *source) locate(spec stacknode.Spec, err error) error {
	key := "stack." + quoteKey(spec.Name)
	if spec.Netns.Name != "" && errors.Is(err, os.ErrNotExist) {
		key += ".netns"
	}
	return &configError{File: s.file, Line: s.index.line(key), Key: key, Err: err}
}

// locate says where in the file the stack is that err is about.
func (c *config) locate(spec stacknode.Spec, err error) error {
	if err == nil || c.where == nil {
		return err
	}
	return c.where(spec, err)
}

// parseStackTOML makes the spec of one stack from the keys that a
// [stack.NAME] table has, on one line and with or without the braces of an
// inline table. An empty text is a namespace of its own.
func parseStackTOML(name, inline string, lookup userLookup) (stacknode.Spec, error) {
	text, err := inlineDocument(inline)
	if err != nil {
		return stacknode.Spec{}, &configError{File: "stack " + name, Err: err}
	}
	var raw inlineStack
	src := &source{file: "stack " + name, inline: true}
	if err := src.decode([]byte(text), &raw); err != nil {
		return stacknode.Spec{}, err
	}
	spec := src.stack("stack", name, raw.Stack, lookup)
	return spec, src.err()
}
