package main

import (
	"context"
	"runtime"
	"strconv"
)

// A trial measures one figure, or a few from the same rounds.
type trial struct {
	name string // of the first figure; --only looks at it
	run  func(ctx context.Context, s *site, r *report) error
}

// trials returns all trials in the order of the report.
func trials() []trial {
	var all []trial
	all = append(all, channelTrials()...)
	all = append(all, firstTrials()...)
	all = append(all, notifyTrials()...)
	all = append(all, syscallTrials()...)
	all = append(all, dataTrials()...)
	all = append(all, startTrials()...)
	all = append(all, connsTrials()...)
	all = append(all, connsListTrials()...)
	all = append(all, fastTrials()...)
	return append(all, scaleTrials()...)
}

// A side is one of those that are compared.
type side struct {
	name    string
	measure func(ctx context.Context) (float64, error)
}

// interleave lets the sides take turns and returns what each measured, by
// rounds. In every other round the order is the opposite.
func interleave(ctx context.Context, rounds int, sides ...side) ([][]float64, error) {
	got := make([][]float64, len(sides))
	for round := range rounds {
		for i := range sides {
			if round%2 == 1 {
				i = len(sides) - 1 - i
			}
			v, err := sides[i].measure(ctx)
			if err != nil {
				return nil, err
			}
			got[i] = append(got[i], v)
		}
	}
	return got, nil
}

// A placement says which CPUs the client and what answers it run on; a
// negative one is any.
type placement struct {
	name           string
	client, server int
}

// placements returns those that a figure with two parties is measured in.
func placements() []placement {
	p := []placement{{"same", 0, 0}}
	if runtime.NumCPU() > 1 {
		p = append(p, placement{"cross", 0, 1})
	}
	return p
}

// anywhere is how programs run if nobody pins them. The kernel then takes
// one of two ways by chance, some times apart, so there is no goal.
var anywhere = placement{"free", -1, -1}

// goal returns g where figures have one.
func (p placement) goal(g goal) goal {
	if p == anywhere {
		return nil
	}
	return g
}

// cpuArg returns a CPU as the C programs want it.
func cpuArg(cpu int) string {
	if cpu < 0 {
		return "-"
	}
	return strconv.Itoa(cpu)
}
