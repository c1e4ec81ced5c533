package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const rootLong = `stackfs mounts a directory in which every networking stack is a named node.
Whoever may enter a node may open sockets in that stack.`

const rootExample = `  stackfs mount /dev/net
  stackfs add /dev/net/lab
  stackfs run lab -- ip -brief address
  stackfs umount /dev/net`

// newRoot builds the whole command tree. It prints nothing by itself: the
// errors of its commands go to env.report.
func newRoot(e env) *cobra.Command {
	root := &cobra.Command{
		Use:     "stackfs COMMAND",
		Short:   "Networking stacks as files",
		Long:    rootLong,
		Example: rootExample,
		Version: versionText(),
		Args:    cobra.ArbitraryArgs,
		RunE:    unknownCommand,

		SuggestionsMinimumDistance: 2,

		SilenceErrors:         true,
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
		CompletionOptions:     cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetVersionTemplate("stackfs {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	root.AddCommand(
		newMountCmd(e), newUmountCmd(e),
		newLsCmd(e), newStatusCmd(e),
		newAddCmd(e), newRmCmd(e), newReloadCmd(e),
		newRunCmd(e), newCheckCmd(e),
		newConnsCmd(e), newCheckpointCmd(e), newRestoreCmd(e), newInspectCmd(e),
		newNICCmd(e),
		newCompletionCmd(e), newVersionCmd(e),
	)
	return root
}

// unknownCommand answers a first word that is no command, or none at all.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage(c, errors.New("no command is given"))
	}
	err := fmt.Errorf("%q is no command", args[0])
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return usage(c, err)
}

// usage marks err as a mistake in the command line of c.
func usage(c *cobra.Command, err error) error {
	return &usageError{command: c.CommandPath(), err: err}
}

// argNames is a check of positional arguments that tells what is missing.
// A name in brackets may be left out.
func argNames(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > len(names) {
			return usage(c, fmt.Errorf("unexpected argument %q", args[len(names)]))
		}
		for _, name := range names[len(args):] {
			if !strings.HasPrefix(name, "[") {
				return usage(c, fmt.Errorf("%s is missing", name))
			}
		}
		return nil
	}
}
