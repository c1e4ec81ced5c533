package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

const helperUsage = "mount.stackfs SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]"

// isMountHelper tells whether mount(8) started us: by the name that it
// makes of the file system's type.
func isMountHelper(arg0 string) bool {
	switch filepath.Base(arg0) {
	case "mount.stackfs", "mount.fuse.stackfs":
		return true
	}
	return false
}

// runMountHelper is what mount(8) calls for "mount -t stackfs" and for a
// line of fstab(5). The source is a configuration file, or "stackfs" or
// "none" to go without.
func runMountHelper(ctx context.Context, e env, args []string) error {
	opts, fake, err := parseMountHelper(args)
	if errors.Is(err, pflag.ErrHelp) {
		_, err = fmt.Fprintln(e.stdout, "usage:", helperUsage)
		return err
	}
	if err != nil {
		return &usageError{command: "stackfs mount", err: err}
	}
	if err := opts.absolute(); err != nil || fake {
		return err
	}
	return serveMount(ctx, e, opts)
}

// parseMountHelper reads the command line of a mount helper. fake is -f of
// mount(8): all but the mounting.
func parseMountHelper(args []string) (opts mountOptions, fake bool, err error) {
	var (
		lists            []string
		namespace, fsTyp string
		sloppy           bool
	)
	f := pflag.NewFlagSet(filepath.Base(args[0]), pflag.ContinueOnError)
	f.Usage = func() {}
	f.BoolVarP(&sloppy, "sloppy", "s", false, "")
	f.BoolVarP(&fake, "fake", "f", false, "")
	f.BoolP("no-mtab", "n", false, "")
	f.BoolP("verbose", "v", false, "") // mount(8) means its own talk, not our log
	f.StringVarP(&namespace, "namespace", "N", "", "")
	f.StringArrayVarP(&lists, "options", "o", nil, "")
	f.StringVarP(&fsTyp, "types", "t", "", "")
	if err := f.Parse(args[1:]); err != nil {
		return opts, false, err
	}
	if f.NArg() != 2 {
		return opts, false, fmt.Errorf("SOURCE and DIR are needed: %s", helperUsage)
	}
	if namespace != "" {
		return opts, false, fmt.Errorf("-N %s: a stackfs cannot be mounted into another mount namespace from outside (nsenter --mount=FILE stackfs mount DIR can)", namespace)
	}
	if t := strings.TrimPrefix(fsTyp, "fuse."); t != "" && t != "stackfs" {
		return opts, false, fmt.Errorf("-t %s: the type is stackfs", fsTyp)
	}
	opts.Dir = f.Arg(1)
	if source := f.Arg(0); source != "stackfs" && source != "none" {
		opts.setConfig(source)
	}
	for _, list := range lists {
		if err := opts.apply(list, sloppy); err != nil {
			return opts, false, err
		}
	}
	return opts, fake, nil
}
