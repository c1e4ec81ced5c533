package main

import "context"

// firstTrials measure the first socket of a process against one round trip
// to the daemon.
func firstTrials() []trial {
	var all []trial
	for _, p := range placements() {
		name := "msocket-first-" + p.name
		all = append(all, trial{name, func(ctx context.Context, s *site, r *report) error {
			return firstTrial(ctx, s, r, name, p)
		}})
	}
	return all
}

func firstTrial(ctx context.Context, s *site, r *report, name string, p placement) error {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return err
	}
	if err := pinAll(d.pid(), p.server); err != nil {
		return err
	}
	first := func(what string) side {
		c := command{argv: []string{s.tool("first"), cpuArg(p.client), s.count(8000), what, d.node(labName)}}
		return side{what, c.number}
	}
	got, err := interleave(ctx, s.opts.rounds, first("socket"), first("version"))
	if err != nil {
		return err
	}
	r.add(figure{name: name, unit: "ns", ours: got[0], peer: "ioctl", theirs: got[1], goal: ratioAtMost(4)})
	return nil
}
