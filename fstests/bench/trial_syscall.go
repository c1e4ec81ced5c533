package main

import "context"

// syscallTrials measure system calls that stackfs run does not trap. On the
// kernel's stack the sockets are the same ones with it and without. The
// figures in -filter, without a goal, have as their peer the smallest filter
// that traps socket(2): what is left is not the kernel's own price.
func syscallTrials() []trial {
	var all []trial
	for _, t := range []syscallTrial{
		{name: "run-syscall", what: "getppid", count: 2_000_000, value: subtract, goal: valueAtMost(60)},
		{name: "run-sendrecv64-unix", what: "unix", count: 200_000, goal: ratioAtMost(1.03)},
		{name: "run-sendrecv64-tcp", what: "tcp", count: 50_000, goal: ratioAtMost(1.03)},
	} {
		all = append(all, trial{t.name, t.run})
	}
	return all
}

type syscallTrial struct {
	name  string
	what  string // argument of the C program
	count int
	value func(ours, theirs []float64) float64
	goal  goal
}

func (t syscallTrial) run(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return err
	}
	argv := []string{s.tool("syscall"), "0", s.count(t.count), t.what}
	filtered := append([]string{s.tool("supervise"), "continue", "-", "-"}, argv...)
	sides := []side{
		{"run", s.under(d, "kernel", argv...).number},
		{"bare", command{argv: argv}.number},
		{"filter", command{argv: filtered}.number},
	}
	got, err := interleave(ctx, s.opts.rounds, sides...)
	if err != nil {
		return err
	}
	r.add(figure{name: t.name, unit: "ns", ours: got[0], peer: "bare", theirs: got[1], value: t.value, goal: t.goal})
	r.add(figure{name: t.name + "-filter", unit: "ns", ours: got[0], peer: "filter", theirs: got[2], value: t.value})
	return nil
}
