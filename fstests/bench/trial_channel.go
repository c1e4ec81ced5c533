package main

import "context"

// A socketKind is a way to a stack whose sockets the daemon makes.
type socketKind struct {
	name   string
	config string
	stack  string
	netns  string // of the client
	made   string // where the sockets are made, "-" the bench's namespace
	goal   ratioAtMost
}

var (
	kernelForeign = socketKind{"kernel-foreign", configForeign, "kernel", callerPath, "-", 1.3}
	netnsStack    = socketKind{"netns", configOwn, labName, "", labPath, 1.5}
)

// channelTrials measure msocket(3) on an open channel.
func channelTrials() []trial {
	var all []trial
	for _, kind := range []socketKind{kernelForeign, netnsStack} {
		for _, p := range append(placements(), anywhere) {
			t := channelTrial{kind, p}
			all = append(all, trial{t.name(), t.run})
		}
	}
	return append(all, trial{"msocket-kernel-self", selfTrial})
}

// A channelTrial compares msocket(3) with a bare exchange of SCM_RIGHTS.
type channelTrial struct {
	kind socketKind
	at   placement
}

func (t channelTrial) name() string { return "msocket-" + t.kind.name + "-" + t.at.name }

func (t channelTrial) run(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, t.kind.config)
	if err != nil {
		return err
	}
	if err := pinAll(d.pid(), t.at.server); err != nil {
		return err
	}
	client, server, count := cpuArg(t.at.client), cpuArg(t.at.server), s.count(8000)
	ours := command{argv: []string{s.tool("opensock_msocket"), client, count, d.node(t.kind.stack)}, netns: t.kind.netns}
	bare := command{argv: []string{s.tool("opensock_scm"), client, count, server, t.kind.made}, netns: t.kind.netns}
	got, err := interleave(ctx, s.opts.rounds, side{"msocket", ours.number}, side{"scm", bare.number})
	if err != nil {
		return err
	}
	r.add(figure{name: t.name(), unit: "ns", ours: got[0], peer: "scm", theirs: got[1], goal: t.at.goal(t.kind.goal)})
	return nil
}

// selfTrial compares msocket(3) on the client's own stack with socket(2).
func selfTrial(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return err
	}
	count := s.count(20000)
	ours := command{argv: []string{s.tool("opensock_msocket"), "0", count, d.node("kernel")}}
	bare := command{argv: []string{s.tool("opensock"), "0", count}}
	got, err := interleave(ctx, s.opts.rounds, side{"msocket", ours.number}, side{"socket", bare.number})
	if err != nil {
		return err
	}
	r.add(figure{name: "msocket-kernel-self", unit: "ns", ours: got[0], peer: "socket", theirs: got[1], goal: ratioAtMost(1.3)})
	return nil
}
