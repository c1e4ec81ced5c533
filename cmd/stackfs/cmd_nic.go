package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stackfs/stackfs/nic"
)

const nicLong = `Set a network interface up so that what arrives on a CPU stays there: as many
queues as CPUs, the interrupt and the transmit queue of each on one CPU, where
there are fewer queues RPS and RFS, and fewer interrupts. It does what
Fastsocket's nic.sh did, for any driver. What the driver or the kernel cannot
do is named and left.

What was there before is kept in /run/stackfs/nic/IFACE.json, and --undo puts
it back.`

// nicOptions is the command line of stackfs nic.
type nicOptions struct {
	nic.Options
	DryRun, Undo bool
	CPUs         string
}

// newNICCmd sets interfaces up.
func newNICCmd(e env) *cobra.Command {
	var opts nicOptions
	c := &cobra.Command{
		Use:   "nic [-n] [--undo] [--cpus LIST] IFACE",
		Short: "Set a network interface up for the fast stack",
		Long:  nicLong,
		Example: `  stackfs nic --dry-run eth0
  stackfs nic eth0
  stackfs nic --cpus 0-7 --no-coalesce eth0
  stackfs nic --undo eth0`,
		Args:                  argNames("IFACE"),
		DisableFlagsInUseLine: true,
		RunE:                  func(c *cobra.Command, args []string) error { return e.nic(c, args[0], opts) },
	}
	f := c.Flags()
	f.BoolVarP(&opts.DryRun, "dry-run", "n", false, "print what would be changed, and change nothing")
	f.BoolVar(&opts.Undo, "undo", false, "put back what was there before")
	f.StringVar(&opts.CPUs, "cpus", "", "the CPUs that are to work, like 0-3,8 (default: all)")
	f.BoolVar(&opts.NoChannels, "no-channels", false, "leave the number of queues")
	f.BoolVar(&opts.NoIRQ, "no-irq", false, "leave the interrupts")
	f.BoolVar(&opts.NoRPS, "no-rps", false, "leave RPS and RFS")
	f.BoolVar(&opts.NoXPS, "no-xps", false, "leave XPS")
	f.BoolVar(&opts.NoCoalesce, "no-coalesce", false, "leave the time between interrupts")
	return c
}

// nic sets up one interface, or puts it back.
func (e env) nic(c *cobra.Command, iface string, opts nicOptions) error {
	if opts.CPUs != "" {
		list, err := nic.ParseList(opts.CPUs)
		if err != nil {
			return usage(c, fmt.Errorf("--cpus: %w", err))
		}
		opts.Options.CPUs = list
	}
	tool, closeTool, err := nic.OpenEthtool()
	if err != nil {
		return err
	}
	defer closeTool()
	s := nic.System{Ethtool: tool}
	var r *nic.Result
	if opts.Undo {
		r, err = s.Undo(iface, opts.DryRun)
	} else {
		r, err = s.Setup(iface, opts.Options, opts.DryRun)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (only root may; --dry-run shows what would be done)", err)
	}
	if err != nil {
		return err
	}
	printNIC(e.stdout, r)
	return nil
}

// printNIC prints a change a line.
func printNIC(w io.Writer, r *nic.Result) {
	for _, c := range r.Changes {
		if c.Failed != "" {
			fmt.Fprintf(w, "%s: cannot be set: %s\n", c.What, reasonText(c.Failed))
			continue
		}
		before := c.Before
		if before == "" {
			before = "-"
		}
		fmt.Fprintf(w, "%s: %s -> %s\n", c.What, before, c.After)
	}
	if len(r.Changes) == 0 {
		fmt.Fprintln(w, "everything is set up already")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
}

// reasonText says what an errno of a driver means.
func reasonText(text string) string {
	if text == syscall.EOPNOTSUPP.Error() {
		return "the driver does not have it"
	}
	return text
}
