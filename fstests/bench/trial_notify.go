package main

import "context"

// notifyTrials measure socket(2) under stackfs run.
func notifyTrials() []trial {
	kernelSelf := socketKind{"kernel-self", configOwn, "kernel", "", "-", 1.3}
	var all []trial
	for _, kind := range []socketKind{kernelForeign, kernelSelf, netnsStack} {
		for _, p := range append(placements(), anywhere) {
			t := notifyTrial{kind, p, kind == kernelSelf}
			all = append(all, trial{t.name(), t.run})
		}
	}
	return all
}

// A notifyTrial compares stackfs run with a bare supervisor.
type notifyTrial struct {
	kind socketKind
	at   placement
	self bool // the client makes the socket itself
}

func (t notifyTrial) name() string { return "run-socket-" + t.kind.name + "-" + t.at.name }

func (t notifyTrial) run(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, t.kind.config)
	if err != nil {
		return err
	}
	if err := pinAll(d.pid(), t.at.server); err != nil {
		return err
	}
	client := []string{s.tool("opensock"), cpuArg(t.at.client), s.count(6000)}
	ours := s.under(d, t.kind.stack, client...)
	ours.netns = t.kind.netns
	bare := func(how string) side {
		argv := append([]string{s.tool("supervise"), how, cpuArg(t.at.server), t.kind.made}, client...)
		return side{how, command{argv: argv, netns: t.kind.netns}.number}
	}
	sides := []side{{"run", ours.number}, bare("two-step"), bare("one-step")}
	if t.self {
		sides = []side{{"run", ours.number}, bare("two-step"), bare("continue")}
	}
	got, err := interleave(ctx, s.opts.rounds, sides...)
	if err != nil {
		return err
	}
	r.add(figure{name: t.name(), unit: "ns", ours: got[0], peer: sides[1].name, theirs: got[1], goal: t.at.goal(t.kind.goal)})
	if t.self {
		r.add(figure{name: t.name() + "-continue", unit: "ns", ours: got[0], peer: sides[2].name, theirs: got[2]})
	} else {
		r.add(figure{name: t.name() + "-onestep", unit: "ns", ours: got[0], peer: sides[2].name, theirs: got[2]})
	}
	return nil
}

// under returns the command that runs a program on a stack.
func (s *site) under(d *daemon, stack string, argv ...string) command {
	return command{argv: append([]string{s.stackfs(), "run", d.node(stack), "--"}, argv...)}
}
