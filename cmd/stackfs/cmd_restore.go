package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const restoreLong = `Make a socket on a stack from the image of a connection, and become COMMAND
with it as descriptor 3, as systemd passes sockets: LISTEN_FDS is 1 and
LISTEN_FDNAMES is connection. IMAGE may be - for the standard input.

If anything fails nothing is started, the exit code is 125, and the peer
notices nothing.`

// restoreOptions is what is to be restored, and for whom.
type restoreOptions struct {
	Image string // a file, "-"
	CRIU  string // a directory of a dump, instead of Image
	Conn  string // which connection of the dump
	Stack string // absolute path of the node
	Inetd bool   // the socket is the standard input and output
	Check bool   // nothing is restored

	Argv []string // the program; empty with Check
}

// newRestoreCmd makes a program go on with a connection.
func newRestoreCmd(e env) *cobra.Command {
	var opts restoreOptions
	c := &cobra.Command{
		Use:   "restore [flags] IMAGE|--criu DIR STACK [--] COMMAND [ARGUMENT...]",
		Short: "Restore a connection for a program",
		Long:  restoreLong,
		Example: `  stackfs restore conn.img lab2 -- ./server
  stackfs restore --inetd conn.img lab2 -- cat
  stackfs restore --criu dump --conn 192.0.2.1:80-192.0.2.2:4711 lab2 -- ./server
  stackfs restore --check conn.img lab2`,
		Args:                  cobra.ArbitraryArgs,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeRestore(e, &opts),
		RunE: func(c *cobra.Command, args []string) error {
			opts := opts
			if err := opts.parse(c, e, args); err != nil {
				return &exitStatus{exitRunFailed, err}
			}
			if opts.Check {
				return e.checkRestore(c.Context(), opts)
			}
			return e.restore(c.Context(), opts)
		},
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitStatus{exitRunFailed, usage(c, err)}
	})
	f := c.Flags()
	f.SetInterspersed(false) // what follows STACK is the program's
	f.SortFlags = false
	f.BoolVar(&opts.Inetd, "inetd", false, "the socket is the command's standard input and output")
	f.StringVar(&opts.CRIU, "criu", "", "take the connection out of the dump in `DIR` that criu made")
	f.StringVar(&opts.Conn, "conn", "", "which one of the dump: `LOCAL-REMOTE`, or its number from 1 on")
	f.BoolVar(&opts.Check, "check", false, "only check the image and that the stack is there")
	return c
}

// parse fills in what follows the flags and checks the whole.
func (o *restoreOptions) parse(c *cobra.Command, e env, args []string) error {
	names := []string{"IMAGE", "STACK"}
	if o.CRIU != "" {
		names = names[1:]
	}
	if len(args) < len(names) {
		return usage(c, fmt.Errorf("%s is missing", names[len(args)]))
	}
	if o.CRIU == "" {
		o.Image, args = args[0], args[1:]
		if o.Conn != "" {
			return usage(c, errors.New("--conn chooses from the dump of --criu; an image is one connection"))
		}
	}
	stack, argv := args[0], args[1:]
	switch {
	case len(argv) > 0 && argv[0] == "--":
		argv = argv[1:]
	case len(argv) > 0 && strings.HasPrefix(argv[0], "-"):
		return usage(c, fmt.Errorf("flags of stackfs stand before %s, as %s", names[0], argv[0]))
	}
	o.Argv = argv
	switch {
	case o.Check && len(argv) > 0:
		return usage(c, errors.New("--check starts nothing"))
	case !o.Check && len(argv) == 0:
		return usage(c, errors.New("COMMAND is missing: who is to have the connection (--check only checks the image)"))
	}
	var err error
	o.Stack, err = e.stackPath(stack)
	return err
}

// completeRestore completes an image, a stack, then whatever the shell
// completes.
func completeRestore(e env, opts *restoreOptions) cobra.CompletionFunc {
	stacks := completeStacks(e, 1)
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if opts.CRIU == "" {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			args = args[1:]
		}
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return stacks(c, args, word)
	}
}
