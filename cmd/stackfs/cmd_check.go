package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newCheckCmd validates a configuration without mounting anything.
func newCheckCmd(e env) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "check [-c FILE]",
		Short: "Check a configuration",
		Long: `Read a configuration as mount and reload do, and tell what is wrong with it:
the file, the line and the key. Nothing is changed.`,
		Example: `  stackfs check
  stackfs check -c ./lab.toml`,
		Args:                  argNames(),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := loadConfig(file, e.users)
			if err != nil {
				return err
			}
			n := len(cfg.Stacks)
			plural := "s"
			if n == 1 {
				plural = ""
			}
			_, err = fmt.Fprintf(e.stdout, "%s: ok, %d stack%s besides kernel and null\n", file, n, plural)
			return err
		},
	}
	c.Flags().StringVarP(&file, "config", "c", e.config, "configuration `FILE`")
	return c
}
