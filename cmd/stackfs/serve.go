package main

import (
	"context"
	"fmt"
)

// serveMount mounts a tree of stacks and serves it.
func serveMount(_ context.Context, _ env, opts mountOptions) error {
	return fmt.Errorf("%s: serving a mount is not built in", opts.Dir)
}
