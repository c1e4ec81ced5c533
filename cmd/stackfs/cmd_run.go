package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stackfs/stackfs/stacknode"
)

// runOptions is what runProgram is to run, and how.
type runOptions struct {
	Stack    string              // absolute path of the node
	Families stacknode.FamilySet // those that go to the stack
	// FamiliesGiven tells whether -f was there; else Families is all.
	FamiliesGiven bool

	Supported bool // print the families of the stack
	Verbose   bool // print the families that are set
	Preload   bool // libmsocket in front of the filter
	NoSeccomp bool // libmsocket instead of the filter
	NoResolv  bool // names resolve as without us

	Argv []string // the program; may be empty with Supported
}

const runLong = `Start a program whose sockets are those of a stack. The program need not be
changed; it may be static or written in Go, and its children are included.
If anything fails the program is not started and the exit code is 125;
otherwise it is the program's.

Address families are names and numbers of socket(2) or ip, ipv4, ipv6, all,
separated by commas. AF_UNIX always stays local. A family that the stack
lacks fails with EAFNOSUPPORT. With -f, families that are not named are those
of the namespace that the program runs in.`

// newRunCmd parses the flags of run and hands them to runProgram.
func newRunCmd(e env) *cobra.Command {
	var (
		opts     runOptions
		families []string
	)
	c := &cobra.Command{
		Use:   "run [flags] STACK [--] COMMAND [ARGUMENT...]",
		Short: "Run a program on a stack",
		Long:  runLong,
		Example: `  stackfs run /dev/net/lab -- ip -brief address
  stackfs run lab curl http://10.9.0.1/
  stackfs run -f ipv4,ipv6 lab -- firefox
  stackfs run -s lab`,
		Args:                  cobra.ArbitraryArgs,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeRun(e),
		RunE: func(c *cobra.Command, args []string) error {
			opts := opts
			err := opts.parse(c, e, args, families)
			if err != nil {
				return &exitStatus{exitRunFailed, err}
			}
			if code := runProgram(c.Context(), e, opts); code != 0 {
				return &exitStatus{code: code}
			}
			return nil
		},
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitStatus{exitRunFailed, usage(c, err)}
	})
	f := c.Flags()
	f.SetInterspersed(false) // what follows STACK is the program's
	f.SortFlags = false
	f.StringArrayVarP(&families, "family", "f", nil, "only these address `FAMILIES` go to the stack (default all)")
	f.StringArrayVar(&families, "families", nil, "the same as --family")
	f.BoolVarP(&opts.Supported, "supported", "s", false, "print the address families that the stack has")
	f.BoolVarP(&opts.Verbose, "verbose", "v", false, "print the address families that are set")
	f.BoolVar(&opts.Preload, "preload", false, "load libmsocket.so too, which is faster for many short connections")
	f.BoolVar(&opts.NoSeccomp, "no-seccomp", false, "with --preload: do without the system call filter")
	f.BoolVar(&opts.NoResolv, "no-resolv", false, "leave /etc/resolv.conf and name services as they are")
	return c
}

// parse fills in what follows the flags and checks the whole.
func (o *runOptions) parse(c *cobra.Command, e env, args, families []string) error {
	if len(args) == 0 {
		return usage(c, errors.New("STACK is missing"))
	}
	o.Argv = args[1:]
	if len(o.Argv) > 0 && o.Argv[0] == "--" {
		o.Argv = o.Argv[1:]
	}
	if len(o.Argv) == 0 && !o.Supported {
		return usage(c, errors.New("COMMAND is missing"))
	}
	if o.NoSeccomp && !o.Preload {
		return usage(c, errors.New("--no-seccomp leaves nothing that would catch the program's sockets; it needs --preload"))
	}
	o.Families = stacknode.AllFamilies
	if len(families) > 0 {
		o.Families, o.FamiliesGiven = 0, true
		for _, list := range families {
			set, err := stacknode.ParseFamilies(list)
			if err != nil {
				return usage(c, err)
			}
			o.Families |= set
		}
		if o.Families &= stacknode.AllFamilies; o.Families == 0 {
			return usage(c, fmt.Errorf("--family %s: unix sockets are always local", families[0]))
		}
	}
	var err error
	o.Stack, err = e.stackPath(args[0])
	return err
}
