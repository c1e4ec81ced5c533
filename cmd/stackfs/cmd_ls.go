package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// newLsCmd lists the stacks of a mount.
func newLsCmd(e env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "ls [--json] [DIR]",
		Aliases: []string{"list"},
		Short:   "List stacks",
		Long: `List the stacks of the mount on DIR, without DIR those of every mount. A stack
that you may not enter is listed with its mode and its owner alone. DIR may
also be one stack of a mount.`,
		Example: `  stackfs ls
  stackfs ls --json /dev/net | jq -r '.[] | select(.kind == "netns").path'`,
		Args:                  argNames("[DIR]"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeMounts(e),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := e.collect(c.Context(), args)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(e.stdout, list)
			}
			return writeTable(e.stdout, e.lsRows(list))
		},
	}
	c.Flags().BoolVarP(&asJSON, "json", "j", false, "write a JSON array")
	return c
}

// collect reads the stacks of the mount in args[0], of all without args.
func (e env) collect(ctx context.Context, args []string) ([]*stackInfo, error) {
	var mounts []mountPoint
	if len(args) > 0 {
		m, err := e.mountAt(args[0])
		if errors.Is(err, errNotServed) {
			// A stack of a mount is a list of one.
			if in, name, serr := e.stackAt(args[0]); serr == nil {
				s, err := e.readOne(ctx, filepath.Join(in.dir, name))
				if err != nil {
					return nil, err
				}
				return []*stackInfo{s}, nil
			}
		}
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, m)
	} else {
		var err error
		if mounts, err = e.mounts(); err != nil {
			return nil, err
		}
		if len(mounts) == 0 {
			return nil, fmt.Errorf("%w (stackfs mount /dev/net mounts one)", errNotServed)
		}
	}
	var list []*stackInfo
	for _, m := range mounts {
		some, err := e.readStacks(ctx, m)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	return list, nil
}

// lsRows makes the table; stacks of several mounts are listed by path.
func (e env) lsRows(list []*stackInfo) [][]cell {
	several, sockets := false, false
	for _, s := range list {
		several = several || s.dir != list[0].dir
		sockets = sockets || s.get("sockets") != ""
	}
	paint := e.painter(e.stdout)
	rows := [][]cell{plain("NAME", "KIND", "STATE", "MODE", "OWNER", "GROUP", "NETNS")}
	for _, s := range list {
		name := s.name
		if several {
			name = s.path()
		}
		row := plain(name, dash(s.get("kind")), dash(s.get("state")), s.octal(), s.owner(), s.group(), dash(s.netns()))
		row[2].paint = stateColour(paint, s.get("state"))
		if sockets {
			row = append(row, cell{text: dash(s.get("sockets"))})
		}
		rows = append(rows, row)
	}
	if sockets {
		rows[0] = append(rows[0], cell{text: "SOCKETS"})
	}
	for i := range rows[0] {
		rows[0][i].paint = paint.bold
	}
	return rows
}

// netns returns the name of the stack's namespace, or its inode as lsns(8)
// lists it.
func (s *stackInfo) netns() string {
	if name, ok := strings.CutPrefix(s.get("namespace"), "name "); ok {
		return name
	}
	return s.get("netns")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func stateColour(p painter, state string) func(string) string {
	switch state {
	case "up":
		return p.green
	case "":
		return nil
	}
	return p.yellow
}
