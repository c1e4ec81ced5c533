package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
)

// defaultConfig is read by mount and check when no file is named.
const defaultConfig = "/etc/stackfs.toml"

// mountOptions is what serveMount is to mount, and how. Paths are absolute.
type mountOptions struct {
	Dir        string
	Config     string // the configuration file; empty: none
	Optional   bool   // the configuration may be missing: the default one
	Foreground bool   // stay in the foreground and log to stderr
	Log        string // file to log to; empty: stderr or the system log
	Verbose    bool   // log at level debug

	Discover *bool // overrides the configuration if not nil

	ReadOnly bool // no changes through the mount: mkdir, chmod, ctl
	NoDev    bool // devices that are passed through (tun) do not open
}

const mountLong = `Mount a tree of stacks on DIR and serve it in the background. The command
returns when the tree can be used. A mount whose daemon has died is taken
over with all that it had.

Without -c the configuration is ` + defaultConfig + ` if that exists. Options of
-o are as for mount(8) and fstab(5):
  config=FILE           the configuration; config=none goes without
  log=FILE              as --log
  discover, nodiscover  whether namespaces of ip-netns(8) appear by themselves
  debug                 log each request
  ro                    refuse every change made through the mount
  nodev                 devices of DIR (tun) stay visible but do not open`

// mountFlags are the flags of mount as they are given.
type mountFlags struct {
	mountOptions
	config string
	lists  []string // of -o
}

// newMountCmd parses the flags of mount and hands them to serveMount.
func newMountCmd(e env) *cobra.Command {
	var flags mountFlags
	c := &cobra.Command{
		Use:   "mount [flags] DIR",
		Short: "Mount a tree of stacks and serve it",
		Long:  mountLong,
		Example: `  stackfs mount /dev/net
  stackfs mount -f -c ./lab.toml /tmp/net
  stackfs mount -o nodiscover /dev/net`,
		Args:                  argNames("DIR"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeDirs(1),
		RunE: func(c *cobra.Command, args []string) error {
			opts, err := flags.resolve(e, args[0])
			if err != nil {
				return usage(c, err)
			}
			return serveMount(c.Context(), e, opts)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVarP(&flags.Foreground, "foreground", "f", false, "stay in the foreground, log to stderr")
	f.StringVarP(&flags.config, "config", "c", "", "configuration `FILE`; none goes without (default "+defaultConfig+" if it exists)")
	f.StringArrayVarP(&flags.lists, "options", "o", nil, "`OPTIONS` of mount(8), separated by commas")
	f.StringVar(&flags.Log, "log", "", "log to `FILE`")
	f.BoolVarP(&flags.Verbose, "verbose", "v", false, "log each request")
	return c
}

// resolve makes one thing of the flags; dir is where to mount.
func (f mountFlags) resolve(e env, dir string) (mountOptions, error) {
	opts := f.mountOptions
	opts.Dir = dir
	opts.Config, opts.Optional = e.config, true
	if f.config != "" {
		opts.setConfig(f.config)
	}
	for _, list := range f.lists {
		if err := opts.apply(list, false); err != nil {
			return opts, err
		}
	}
	return opts, opts.absolute()
}

// setConfig takes the name of a configuration as the user gave it.
func (o *mountOptions) setConfig(name string) {
	o.Optional = false
	if name == "none" {
		name = ""
	}
	o.Config = name
}

// absolute makes the paths independent of the working directory, which the
// daemon leaves.
func (o *mountOptions) absolute() error {
	for _, p := range []*string{&o.Dir, &o.Config, &o.Log} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("%s: %w", *p, err)
		}
		*p = abs
	}
	return nil
}
