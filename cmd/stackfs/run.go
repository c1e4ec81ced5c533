package main

import (
	"context"
	"fmt"
)

// runProgram runs a program on a stack and returns its exit code.
func runProgram(_ context.Context, e env, opts runOptions) int {
	e.complain(fmt.Errorf("%s: running a program is not built in", opts.Stack))
	return exitRunFailed
}
