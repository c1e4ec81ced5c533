package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // something could not be measured
	exitUsage  = 2
	exitMissed = 3 // --strict, and a goal was missed
)

// The main thread stays in the namespaces that the process was started in.
func init() { runtime.LockOSThread() }

type options struct {
	rounds int
	only   *regexp.Regexp
	quick  bool
	strict bool
}

func parseOptions(args []string) (options, error) {
	var opts options
	var only string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&opts.rounds, "rounds", 0, "rounds for each figure (default 15, with --quick 3)")
	f.StringVar(&only, "only", "", "measure only figures that match this `regexp`")
	f.BoolVar(&opts.quick, "quick", false, "few and short rounds, to see that it works")
	f.BoolVar(&opts.strict, "strict", false, "exit with 3 if a goal is missed")
	if err := f.Parse(args); err != nil {
		return opts, err
	}
	if f.NArg() > 0 {
		return opts, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if opts.rounds <= 0 {
		opts.rounds = 15
		if opts.quick {
			opts.rounds = 3
		}
	}
	var err error
	opts.only, err = regexp.Compile(only)
	return opts, err
}

func main() {
	opts, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(exitOK)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !isolated() {
		os.Exit(runIsolated(ctx))
	}
	code, err := runTrials(ctx, opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(code)
}

// runTrials measures what opts asks for, in the namespaces of the bench.
func runTrials(ctx context.Context, opts options) (int, error) {
	site, err := newSite(ctx, opts)
	if err != nil {
		return exitFailed, err
	}
	defer site.close()
	report := &report{out: os.Stdout}
	failed := false
	for _, t := range trials() {
		if !opts.only.MatchString(t.name) || ctx.Err() != nil {
			continue
		}
		if err := t.run(ctx, site, report); err != nil {
			err = errors.Join(err, site.alive())
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", t.name, err)
			failed = true
		}
	}
	switch {
	case ctx.Err() != nil:
		return exitFailed, ctx.Err()
	case failed:
		return exitFailed, nil
	case opts.strict && report.missed > 0:
		return exitMissed, fmt.Errorf("%d goals missed", report.missed)
	}
	return exitOK, nil
}
