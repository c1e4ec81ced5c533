package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// manyStacks is how many stacks the daemon has in the end.
const manyStacks = 1000

// listRounds bounds the rounds of a list, each of which takes many of them.
const listRounds = 5

// scaleTrials measure what many stacks cost. They come last: the namespaces
// that they make stay to the end.
func scaleTrials() []trial {
	return []trial{
		{"memory-1", func(ctx context.Context, s *site, r *report) error { return memoryTrial(ctx, s, r, 1) }},
		{"memory-1000", func(ctx context.Context, s *site, r *report) error { return memoryTrial(ctx, s, r, manyStacks) }},
		{"list-1000", listTrial},
	}
}

// daemonWith starts a daemon that has n stacks besides the two that are
// always there.
func (s *site) daemonWith(ctx context.Context, n int) (*daemon, error) {
	for i := 2; i <= n; i++ { // the first is lab
		path := fmt.Sprintf("/run/netns/many%d", i)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := errors.Join(makeNetNS(path), ctx.Err()); err != nil {
			return nil, err
		}
	}
	d, err := s.startDaemon(ctx, configMany)
	if err != nil {
		return nil, err
	}
	found := 0
	all := func() bool {
		entries, err := os.ReadDir(d.dir)
		found = 0
		for _, e := range entries {
			if _, statErr := os.Stat(filepath.Join("/run/netns", e.Name())); statErr == nil {
				found++
			}
		}
		return err == nil && found >= n
	}
	if err := waitFor(ctx, daemonLimit, all); err != nil {
		d.stop()
		return nil, fmt.Errorf("%d of %d stacks appeared: %w", found, n, err)
	}
	return d, nil
}

func memoryTrial(ctx context.Context, s *site, r *report, n int) error {
	d, err := s.daemonWith(ctx, n)
	if err != nil {
		return err
	}
	defer d.stop()
	rss, err := rssKiB(d.pid())
	if err != nil {
		return err
	}
	r.add(figure{name: fmt.Sprintf("memory-%d", n), unit: "KiB", ours: []float64{rss}})
	return nil
}

func listTrial(ctx context.Context, s *site, r *report) error {
	d, err := s.daemonWith(ctx, manyStacks)
	if err != nil {
		return err
	}
	defer d.stop()
	plain := "/run/bench/plain"
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.MkdirAll(filepath.Join(plain, e.Name()), 0o755); err != nil {
			return err
		}
	}
	got, err := interleave(ctx, min(s.opts.rounds, listRounds),
		s.spawning("ls", []string{"ls", d.dir}),
		s.spawning("stackfs-ls", []string{s.stackfs(), "ls", d.dir}),
		s.spawning("ls-tmpfs", []string{"ls", plain}))
	if err != nil {
		return err
	}
	r.add(figure{name: "list-1000-ls", unit: "us", ours: got[0], peer: "ls-tmpfs", theirs: got[2]})
	r.add(figure{name: "list-1000-stackfs-ls", unit: "us", ours: got[1], peer: "ls-tmpfs", theirs: got[2]})
	return nil
}
