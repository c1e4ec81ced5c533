package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// commandLimit is how long a program may take that is not a server.
const commandLimit = time.Minute

// A command is a program and where it is to run.
type command struct {
	argv  []string
	env   []string // in addition to ours
	netns string   // path of its network namespace; empty: that of the bench
	stdin io.Reader
}

// start starts the program; ctx ends it.
func (c command) start(ctx context.Context, stdout, stderr io.Writer) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, stdout, stderr
	cmd.WaitDelay = time.Second // a daemon may have inherited the pipes
	err := onThread(func() error {
		if c.netns != "" {
			if err := enterNetNS(c.netns); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", strings.Join(c.argv, " "), err)
	}
	return cmd, nil
}

// output runs the program to its end and returns what it printed.
func (c command) output(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd, err := c.start(ctx, &stdout, &stderr)
	if err != nil {
		return "", err
	}
	err = cmd.Wait()
	if ctxErr := ctx.Err(); ctxErr != nil {
		err = errors.Join(err, ctxErr)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", strings.Join(c.argv, " "), err, &stderr, &stdout)
	}
	return stdout.String(), nil
}

// number runs the program and returns the one number that it printed.
func (c command) number(ctx context.Context) (float64, error) {
	out, err := c.output(ctx)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", strings.Join(c.argv, " "), err)
	}
	return v, nil
}
