package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"
)

// newStatusCmd shows what a stack says about itself.
func newStatusCmd(e env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status [--json] [STACK|DIR]",
		Short: "Show the state of stacks",
		Long: `Show everything that a stack, or every stack of a mount, says about itself:
the file status of its node.`,
		Example: `  stackfs status
  stackfs status /dev/net/lab
  stackfs status --json lab | jq '.[0].netns'`,
		Args:                  argNames("[STACK|DIR]"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeStacks(e, 1),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := e.statusOf(c.Context(), args)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(e.stdout, list)
			}
			return e.writeStatus(e.stdout, list)
		},
	}
	c.Flags().BoolVarP(&asJSON, "json", "j", false, "write a JSON array")
	return c
}

// statusOf reads the stack that args name, or those of a mount.
func (e env) statusOf(ctx context.Context, args []string) ([]*stackInfo, error) {
	if len(args) == 0 {
		return e.collect(ctx, nil)
	}
	if !isBareName(args[0]) {
		switch _, err := e.mountAt(args[0]); {
		case err == nil:
			return e.collect(ctx, args)
		case errors.Is(err, errNoAnswer):
			return nil, err
		}
	}
	path, err := e.stackPath(args[0])
	if err != nil {
		return nil, err
	}
	s, err := e.readOne(ctx, path)
	if err != nil {
		return nil, err
	}
	return []*stackInfo{s}, nil
}

// readOne looks at the stack at path.
func (e env) readOne(ctx context.Context, path string) (*stackInfo, error) {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	s, err := within(ctx, e.patience, func() (*stackInfo, error) { return readStack(dir, name) })
	if err != nil {
		return nil, explain(err, path, dir)
	}
	return s, nil
}

// writeStatus writes one block of lines for each stack.
func (e env) writeStatus(w io.Writer, list []*stackInfo) error {
	paint := e.painter(w)
	for i, s := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, paint.bold(printable(s.path())))
		var rows [][]cell
		if !s.accessible {
			rows = append(rows, plain("  mode:", s.octal()), plain("  owner:", s.owner()),
				plain("  group:", s.group()), plain("  note:", "you may not enter this stack"))
		}
		for _, l := range s.lines {
			row := plain("  "+l.Key+":", l.Value)
			if l.Key == "state" {
				row[1].paint = stateColour(paint, l.Value)
			}
			rows = append(rows, row)
		}
		if err := writeTable(w, rows); err != nil {
			return err
		}
	}
	return nil
}
