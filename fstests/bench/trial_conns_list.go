package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// connCounts are how many connections are listed. A farm only grows, so they
// go up.
var connCounts = []int{1_000, 10_000, 50_000}

// allCount is how many connections are saved at once.
const allCount = 10_000

// connsListTrials measure lists of connections against ss(8), and saving
// many. The connections stay to the end.
func connsListTrials() []trial {
	var all []trial
	for _, n := range connCounts {
		all = append(all, trial{fmt.Sprintf("conns-list-%d", n), func(ctx context.Context, s *site, r *report) error {
			return connsListTrial(ctx, s, r, n)
		}})
		if n == allCount {
			all = append(all, trial{fmt.Sprintf("conns-all-%d", n), connsAllTrial})
		}
	}
	return all
}

// spawningIn is spawning in the stack of connections, fewer times if a list
// is long.
func (s *site) spawningIn(n int, name string, argv ...string) side {
	c := command{argv: append([]string{s.tool("spawn"), "-", strconv.Itoa(max(1, 40_000/n))}, argv...), netns: connsPath}
	return side{name, func(ctx context.Context) (float64, error) {
		ns, err := c.number(ctx)
		return ns / 1000, err
	}}
}

func connsListTrial(ctx context.Context, s *site, r *report, n int) error {
	d, err := s.connsDaemon(ctx)
	if err != nil {
		return err
	}
	if err := s.farm(ctx, n); err != nil {
		return err
	}
	if err := resetPeak(d.pid()); err != nil {
		return err
	}
	node := d.node(connsName)
	got, err := interleave(ctx, min(s.opts.rounds, listRounds),
		s.spawningIn(n, "stackfs-conns", s.stackfs(), "conns", node),
		s.spawningIn(n, "ls-U", "ls", "-U", filepath.Join(node, "conns")),
		s.spawningIn(n, "ss", "ss", "-tanH"))
	if err != nil {
		return err
	}
	r.add(figure{name: fmt.Sprintf("conns-list-%d", n), unit: "us", ours: got[0], peer: "ss", theirs: got[2], goal: ratioAtMost(1.5)})
	r.add(figure{name: fmt.Sprintf("conns-ls-%d", n), unit: "us", ours: got[1], peer: "ss", theirs: got[2], goal: ratioAtMost(2)})
	peak, err := peakKiB(d.pid())
	if err != nil {
		return err
	}
	r.add(figure{name: fmt.Sprintf("conns-list-memory-%d", n), unit: "KiB", ours: []float64{peak}})
	return nil
}

// connsAllTrial measures "stackfs checkpoint --all", in seconds, to a file
// system in memory.
func connsAllTrial(ctx context.Context, s *site, r *report) error {
	d, err := s.connsDaemon(ctx)
	if err != nil {
		return err
	}
	if err := s.farm(ctx, allCount); err != nil {
		return err
	}
	if err := resetPeak(d.pid()); err != nil {
		return err
	}
	dir := "/run/bench/tmp/all"
	all := command{argv: []string{s.stackfs(), "checkpoint", "--all", d.node(connsName), dir}, netns: connsPath}
	got, err := interleave(ctx, min(s.opts.rounds, listRounds), side{"all", func(ctx context.Context) (float64, error) {
		start := time.Now()
		if _, err := all.output(ctx); err != nil {
			return 0, err
		}
		took := time.Since(start).Seconds()
		images, err := filepath.Glob(filepath.Join(dir, "*.img"))
		if err == nil && len(images) != allCount {
			err = fmt.Errorf("%d images, want %d", len(images), allCount)
		}
		if err != nil {
			return 0, err
		}
		return took, os.RemoveAll(dir)
	}})
	if err != nil {
		return err
	}
	r.add(figure{name: fmt.Sprintf("conns-all-%d", allCount), unit: "s", ours: got[0], goal: valueAtMost(5)})
	peak, err := peakKiB(d.pid())
	if err != nil {
		return err
	}
	r.add(figure{name: fmt.Sprintf("conns-all-memory-%d", allCount), unit: "KiB", ours: []float64{peak}})
	return nil
}
