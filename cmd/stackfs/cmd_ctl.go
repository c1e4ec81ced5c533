package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stackfs/stackfs/stacknode"
)

// newAddCmd makes a stack at run time.
func newAddCmd(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "add STACK [OPTION...]",
		Short: "Add a stack",
		Long: `Make a stack in a mount, without options a network namespace of its own.
Options are the keys of a [stack.NAME] table of stackfs.toml(5), written as
in TOML: one to an argument, or several separated by commas. The stack lives
until it is removed or the mount ends; reload leaves it alone.`,
		Example: `  stackfs add /dev/net/lab
  stackfs add lab 'mode = "0750"' 'group = "netdev"'
  stackfs add /dev/net/blue 'netns = "blue"'
  stackfs add lab 'addresses = ["10.9.0.2/24"], uplink = {type = "veth", bridge = "br0"}'`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(c, errors.New("STACK is missing"))
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeDirs(1),
		RunE: func(c *cobra.Command, args []string) error {
			m, name, err := e.stackIn(args[0])
			if err != nil {
				return err
			}
			path := filepath.Join(m.dir, name)
			line := "add " + name
			if options := strings.TrimSpace(strings.Join(args[1:], ", ")); options != "" {
				if !strings.HasPrefix(options, "{") {
					options = "{" + options + "}"
				}
				line += " " + options
			}
			if err := stacknode.CheckName(name); err != nil {
				return usage(c, fmt.Errorf("%s: %w", path, err))
			}
			// What is wrong here is wrong there; only users may be others.
			if _, err := parseStackTOML(name, strings.TrimPrefix(line, "add "+name), anyAccount{}); err != nil {
				return err
			}
			_, err = e.order(c.Context(), m, line)
			return exitCodeOf(explainOrder(err, path, m, ""), map[syscall.Errno]int{
				syscall.EINVAL: exitConfig,
				syscall.ENOENT: exitFailed, // something that an option names
			})
		},
	}
}

// newRmCmd removes a stack at run time.
func newRmCmd(e env) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:     "rm [--force] STACK",
		Aliases: []string{"remove"},
		Short:   "Remove a stack",
		Long: `Remove a stack from its mount, and the namespace and links that were made
for it. A stack in use is left alone (exit code 4) unless --force is given:
then sockets that are open go on, and nobody gets a new one.`,
		Example: `  stackfs rm /dev/net/lab
  stackfs rm --force lab`,
		Args:                  argNames("STACK"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeStacks(e, 1),
		RunE: func(c *cobra.Command, args []string) error {
			m, name, err := e.stackIn(args[0])
			if err != nil {
				return err
			}
			line := "remove " + name
			if force {
				line += " force"
			}
			if err := stacknode.CheckName(name); err != nil {
				return usage(c, fmt.Errorf("%s: %w", args[0], err))
			}
			path := filepath.Join(m.dir, name)
			_, err = e.order(c.Context(), m, line)
			if errors.Is(err, syscall.ENOENT) {
				return explain(syscall.ENOENT, path, m.dir)
			}
			return explainOrder(err, path, m, "stackfs rm --force removes it all the same")
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "remove it though it is in use")
	return c
}

// newReloadCmd makes a daemon read its configuration again.
func newReloadCmd(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "reload [DIR]",
		Short: "Read the configuration again",
		Long: `Make the daemon of a mount read its configuration again: stacks that are new
there are added, those that are gone are removed, others are changed. If
anything in the file is wrong, everything stays as it is.`,
		Example: `  stackfs check && stackfs reload
  stackfs reload /dev/net`,
		Args:                  argNames("[DIR]"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeMounts(e),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := e.mountArg(args)
			if err != nil {
				return err
			}
			_, err = e.order(c.Context(), m, "reload")
			return exitCodeOf(explainOrder(err, m.dir, m, ""), map[syscall.Errno]int{
				syscall.EINVAL: exitConfig,
				syscall.ENOENT: exitConfig, // the file, or something that it names
			})
		},
	}
}

// mountArg returns the mount that the first argument names, the only one
// there is without arguments.
func (e env) mountArg(args []string) (mountPoint, error) {
	if len(args) == 0 {
		return e.onlyMount()
	}
	return e.mountAt(args[0])
}

// anyAccount takes every name of a user or group.
type anyAccount struct{}

func (anyAccount) UID(string) (uint32, error) { return 0, nil }
func (anyAccount) GID(string) (uint32, error) { return 0, nil }
