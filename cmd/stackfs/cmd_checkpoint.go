package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// progressTick is the least time between two pictures of a progress bar.
const progressTick = 100 * time.Millisecond

const checkpointLong = `Save a TCP connection: write an image from which "stackfs restore" makes a
socket again. The connection goes on and its program notices nothing; so the
image is stale as soon as a byte moves.

With --move the connection ends here, without a packet to the peer, when the
image is complete. Until then it is held, and if anything fails it goes on.

With --all every connection of the stack is saved as DIR/N.img; flags of
"stackfs conns" choose some.`

// newCheckpointCmd saves connections.
func newCheckpointCmd(e env) *cobra.Command {
	var (
		flags     connFlags
		move, all bool
		output    string
	)
	c := &cobra.Command{
		Use:   "checkpoint [--move] [-o FILE] STACK/conns/N | STACK N\n  stackfs checkpoint --all [flags] STACK DIR",
		Short: "Save connections",
		Long:  checkpointLong,
		Example: `  stackfs checkpoint /dev/net/lab/conns/4097 > conn.img
  stackfs checkpoint --move -o conn.img lab 4097
  stackfs checkpoint --all --sport 80 lab /var/tmp/lab`,
		Args:                  argsFrom("STACK"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeCheckpoint(e, &all),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := untilSignal(c.Context())
			defer stop()
			if all {
				return e.runCheckpointAll(ctx, c, &flags, args)
			}
			to := sink{path: output, out: e.stdout}
			if output == "-" {
				to.path = ""
			}
			ref, err := e.checkpointArgs(c, &flags, args, to)
			if err != nil {
				return err
			}
			if move {
				return e.moveConn(ctx, ref, to)
			}
			return e.checkpoint(ctx, ref, to)
		},
	}
	f := c.Flags()
	f.StringVarP(&output, "output", "o", "", "write the image to `FILE` instead of the standard output")
	f.BoolVar(&move, "move", false, "end the connection here once its image is written")
	f.BoolVar(&all, "all", false, "save all connections into a directory, or those:")
	flags.register(c)
	return c
}

// untilSignal returns a context that ends with the first signal that asks the
// process to end; the second one does. SIGPIPE becomes an error of the write.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// checkpointArgs checks the arguments for one connection.
func (e env) checkpointArgs(c *cobra.Command, flags *connFlags, args []string, to sink) (ref connRef, err error) {
	for _, name := range flags.given(c) {
		return ref, usage(c, fmt.Errorf("--%s is for --all", name))
	}
	_, refs, err := e.connArgs(args)
	switch {
	case err != nil:
		return ref, err
	case len(refs) == 0:
		return ref, usage(c, errors.New("the number of the connection is missing (STACK/conns/N or STACK N)"))
	case len(refs) > 1:
		return ref, usage(c, errors.New("one connection at a time, or --all"))
	case to.path == "" && e.isTerminal(e.stdout):
		return ref, usage(c, errors.New("an image is nothing for a terminal: redirect the output, or use -o FILE"))
	}
	return refs[0], nil
}

// given returns the names of the flags that were there.
func (f *connFlags) given(c *cobra.Command) (names []string) {
	known := &cobra.Command{}
	new(connFlags).register(known)
	known.Flags().VisitAll(func(flag *pflag.Flag) {
		if c.Flags().Changed(flag.Name) {
			names = append(names, flag.Name)
		}
	})
	return names
}

// runCheckpointAll checks the arguments of --all and does it.
func (e env) runCheckpointAll(ctx context.Context, c *cobra.Command, flags *connFlags, args []string) error {
	for _, name := range []string{"move", "output"} {
		if c.Flags().Changed(name) {
			return usage(c, fmt.Errorf("--%s is for one connection, not for --all", name))
		}
	}
	switch len(args) {
	case 1:
		return usage(c, errors.New("DIR is missing"))
	case 2:
	default:
		return usage(c, fmt.Errorf("unexpected argument %q", args[2]))
	}
	filter, err := flags.filter(e, c, stSaveable)
	if err != nil {
		return err
	}
	stack, err := e.stackPath(args[0])
	if err != nil {
		return err
	}
	return e.checkpointAll(ctx, stack, args[1], filter)
}

// completeCheckpoint completes a stack and a connection of it, or with --all
// a directory.
func completeCheckpoint(e env, all *bool) cobra.CompletionFunc {
	one := completeConns(e, 1)
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if *all && len(args) == 1 {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		return one(c, args, word)
	}
}
