package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// versionText is the release, the node ABI it speaks and what built it.
func versionText() string {
	return fmt.Sprintf("%s (node ABI %d.%d, %s %s/%s)",
		version, uapi.ABIMajor, uapi.ABIMinor, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func newVersionCmd(e env) *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version",
		Long:              "Print the version of stackfs and of the node ABI that it speaks.",
		Example:           "  stackfs version",
		Args:              argNames(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(e.stdout, "stackfs", versionText())
			return err
		},
	}
}
