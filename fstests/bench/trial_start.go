package main

import "context"

// startTrials measure how long it takes to start a program.
func startTrials() []trial {
	return []trial{{"run-start", startTrial}}
}

func startTrial(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return err
	}
	if err := pinAll(d.pid(), -1); err != nil {
		return err
	}
	ours, peer := s.inLab(d, "true")
	got, err := interleave(ctx, s.opts.rounds, s.spawning("run", ours.argv), s.spawning("ip-netns", peer.argv))
	if err != nil {
		return err
	}
	r.add(figure{name: "run-start", unit: "us", ours: got[0], peer: "ip-netns", theirs: got[1], goal: ratioAtMost(2)})
	return nil
}

// spawning returns a side that starts a program again and again and
// measures, in microseconds, how long it takes from start to end.
func (s *site) spawning(name string, argv []string) side {
	c := command{argv: append([]string{s.tool("spawn"), "-", "41"}, argv...)}
	return side{name, func(ctx context.Context) (float64, error) {
		ns, err := c.number(ctx)
		return ns / 1000, err
	}}
}
