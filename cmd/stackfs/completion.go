package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// newCompletionCmd prints the completion script of a shell.
func newCompletionCmd(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the completion script of a shell",
		Long:  "Print a script that makes a shell complete the commands, flags and stacks of stackfs.",
		Example: `  stackfs completion bash > /etc/bash_completion.d/stackfs
  stackfs completion zsh > "${fpath[1]}/_stackfs"
  stackfs completion fish > ~/.config/fish/completions/stackfs.fish`,
		Args:                  argNames("SHELL"),
		ValidArgs:             []cobra.Completion{"bash", "zsh", "fish"},
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(e.stdout, true)
			case "zsh":
				return root.GenZshCompletion(e.stdout)
			case "fish":
				return root.GenFishCompletion(e.stdout, true)
			}
			return usage(c, fmt.Errorf("%q is no shell that has a script (bash, zsh, fish)", args[0]))
		},
	}
}

// A mount may take a tenth of the usual time to say what a word can become.
const completionHaste = 10

// completeDirs completes up to n arguments to directories.
func completeDirs(n int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
}

// completeMounts completes the first argument to a mount.
func completeMounts(e env) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var dirs []cobra.Completion
		mounts, _ := e.mounts() // without the list there are directories
		for _, m := range mounts {
			if strings.HasPrefix(m.dir, word) {
				dirs = append(dirs, m.dir)
			}
		}
		if len(dirs) == 0 {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		return dirs, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeStacks completes up to n arguments to stacks: by name where the
// word has no slash and there is one mount, else to directories.
func completeStacks(e env, n int) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if names := e.stackNames(c.Context(), word); len(names) > 0 {
			return names, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
}

// completeConns completes a stack and then up to n of its connections, any
// number if n is negative.
func completeConns(e env, n int) cobra.CompletionFunc {
	stacks := completeStacks(e, 1)
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return stacks(c, args, word)
		}
		if n >= 0 && len(args) > n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return e.connNames(c.Context(), args, word), cobra.ShellCompDirectiveNoFileComp
	}
}

// maxConnNames bounds the connections that a shell is offered.
const maxConnNames = 1000

// connNames returns the connections of the stack args[0] that are not in args
// and that word can become, with what they are.
func (e env) connNames(ctx context.Context, args []string, word string) []cobra.Completion {
	e.patience /= completionHaste
	stack, err := e.stackPath(args[0])
	if err != nil {
		return nil
	}
	rows, _ := e.readConns(ctx, stack) // without the table there is nothing to offer
	var fit []cobra.Completion
	for _, r := range rows {
		if len(fit) == maxConnNames {
			break
		}
		if r.Cookie != "" && strings.HasPrefix(r.Cookie, word) && stateOf(r.State) != stListen && !slices.Contains(args[1:], r.Cookie) {
			fit = append(fit, cobra.CompletionWithDesc(r.Cookie, clean(r.Local)+" "+clean(r.Remote)+" "+r.State))
		}
	}
	return fit
}

// completeRun completes the stack, then whatever the shell completes.
func completeRun(e env) cobra.CompletionFunc {
	stacks := completeStacks(e, 1)
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return stacks(c, args, word)
	}
}

// stackNames returns the stacks that a bare word can become.
func (e env) stackNames(ctx context.Context, word string) []cobra.Completion {
	if strings.Contains(word, "/") {
		return nil
	}
	m, err := e.onlyMount()
	if err != nil {
		return nil
	}
	names, err := within(ctx, e.patience/completionHaste, func() ([]string, error) { return listStacks(filepath.Clean(m.dir)) })
	if err != nil {
		return nil
	}
	var fit []cobra.Completion
	for _, name := range names {
		if strings.HasPrefix(name, word) {
			fit = append(fit, name)
		}
	}
	return fit
}
