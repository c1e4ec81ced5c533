package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

const connsLong = `List the TCP connections of a stack, without flags the open ones. With the
number of a connection, the column COOKIE, show all that is known of it.

Flags that choose connections must all fit. States are those of ss(8):
established, syn-sent, syn-recv, fin-wait-1, fin-wait-2, time-wait, close,
close-wait, last-ack, listen, closing; or the groups all, connected,
synchronized, bucket, big.`

// newConnsCmd lists the connections of a stack.
func newConnsCmd(e env) *cobra.Command {
	var (
		flags                                                connFlags
		all, listening, processes, asJSON, noHeader, numeric bool
	)
	c := &cobra.Command{
		Use:   "conns [flags] STACK [N...] | STACK/conns/N",
		Short: "List the connections of a stack",
		Long:  connsLong,
		Example: `  stackfs conns lab
  stackfs conns --state established --sport 80 -p lab
  stackfs conns lab 4097
  stackfs conns --json -a kernel | jq 'map(.recv_q) | add'`,
		Args:                  argsFrom("STACK"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeConns(e, -1),
		RunE: func(c *cobra.Command, args []string) error {
			stack, refs, err := e.connArgs(args)
			if err != nil {
				return err
			}
			if len(refs) > 0 {
				return e.showConns(c.Context(), refs, asJSON)
			}
			states := stConns
			switch {
			case all:
				states = stAll
			case listening:
				states = stListen
			}
			filter, err := flags.filter(e, c, states)
			if err != nil {
				return err
			}
			rows, err := e.readConns(c.Context(), stack)
			if err != nil {
				return err
			}
			rows = filter.apply(rows)
			p := newConnPrinter(e.stdout, e.painter(e.stdout))
			p.numeric, p.noHeader = numeric, noHeader
			if processes {
				p.processes = holders(e.proc, rows)
			}
			if asJSON {
				return p.json(rows)
			}
			return p.table(rows)
		},
	}
	f := c.Flags()
	f.BoolVarP(&all, "all", "a", false, "in any state, listeners too")
	f.BoolVarP(&listening, "listening", "l", false, "only listeners")
	flags.register(c)
	f.BoolVarP(&processes, "processes", "p", false, "show the processes that hold each, as far as you may see them")
	f.BoolVarP(&numeric, "numeric", "n", false, "show users by number")
	f.BoolVar(&noHeader, "no-header", false, "write no line of titles")
	f.BoolVarP(&asJSON, "json", "j", false, "write a JSON array")
	return c
}

// argsFrom is a check of positional arguments that must be there, and that
// any number may follow.
func argsFrom(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usage(c, fmt.Errorf("%s is missing", names[len(args)]))
		}
		return nil
	}
}
