package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// intervalRounds is the least number of rounds for an interval.
const intervalRounds = 9

// dataTrials measure the path of the data, which is the kernel's alone.
func dataTrials() []trial {
	return []trial{
		{"data-netns-cookie", cookieTrial},
		{"data-throughput", throughputTrial},
		{"data-rr64", roundTripTrial},
		{"data-daemon-ticks", ticksTrial},
	}
}

// inLab returns the two ways to run a program in the stack: ours and that
// of ip-netns(8).
func (s *site) inLab(d *daemon, argv ...string) (ours, peer command) {
	return s.under(d, labName, argv...), command{argv: append([]string{"ip", "netns", "exec", labName}, argv...)}
}

// serve runs a server next to the stack's namespace until the returned
// function is called.
func (s *site) serve(ctx context.Context, port int, argv ...string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd, err := command{argv: argv, netns: peerPath}.start(ctx, nil, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	stop = func() {
		cancel()
		_ = cmd.Wait()
	}
	listening := func() bool {
		ss := command{argv: []string{"ss", "-Hltn", fmt.Sprintf("sport = %d", port)}, netns: peerPath}
		out, err := ss.output(ctx)
		return err == nil && strings.TrimSpace(out) != ""
	}
	if err := waitFor(ctx, 10*time.Second, listening); err != nil {
		stop()
		return nil, fmt.Errorf("%s: %w", argv[0], err)
	}
	return stop, nil
}

// cookieTrial checks that a socket made under stackfs run is in the stack's
// namespace: ours and the peer's differ by 0.
func cookieTrial(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return err
	}
	ours, peer := s.inLab(d, s.tool("cookie"))
	got, err := interleave(ctx, 1, side{"run", ours.number}, side{"ip-netns", peer.number})
	if err != nil {
		return err
	}
	r.add(figure{
		name: "data-netns-cookie", unit: "cookie", ours: got[0], peer: "ip-netns", theirs: got[1],
		goal: sameValue{},
	})
	return nil
}

// A sameValue wants ours to be the peer's in each round.
type sameValue struct{}

func (sameValue) judge(f *figure, _, _ float64) (string, bool) {
	for i := range f.ours {
		if f.ours[i] != f.theirs[i] {
			return "goal=1.00", false
		}
	}
	return "goal=1.00", true
}

const (
	iperfPort = 5201
	rrPort    = 5202
)

// The traffic's two ends have a CPU each, if there are so many.
var (
	dataClient = placements()[len(placements())-1].client
	dataServer = placements()[len(placements())-1].server
)

func (s *site) serveIperf(ctx context.Context) (stop func(), err error) {
	return s.serve(ctx, iperfPort, "iperf3", "-s", "-A", fmt.Sprint(dataServer))
}

// iperf returns the client's arguments for a run of so many seconds.
func iperf(seconds int) []string {
	return []string{"iperf3", "-J", "-A", fmt.Sprint(dataClient), "-c", peerAddr, "-t", fmt.Sprint(seconds)}
}

func throughputTrial(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return err
	}
	stop, err := s.serveIperf(ctx)
	if err != nil {
		return err
	}
	defer stop()
	ours, peer := s.inLab(d, iperf(s.seconds(2))...)
	got, err := interleave(ctx, max(s.opts.rounds, intervalRounds), side{"run", ours.gbits}, side{"ip-netns", peer.gbits})
	if err != nil {
		return err
	}
	r.add(figure{
		name: "data-throughput", unit: "Gbit/s", ours: got[0], peer: "ip-netns", theirs: got[1],
		goal: sameAsPeer{},
	})
	return nil
}

// gbits runs iperf3 and returns what the server received.
func (c command) gbits(ctx context.Context) (float64, error) {
	out, err := c.output(ctx)
	if err != nil {
		return 0, err
	}
	var result struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return 0, err
	}
	if result.End.Received.BitsPerSecond == 0 {
		return 0, errors.New("iperf3: nothing was received")
	}
	return result.End.Received.BitsPerSecond / 1e9, nil
}

func roundTripTrial(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return err
	}
	stop, err := s.serve(ctx, rrPort, s.tool("rr"), fmt.Sprint(dataServer), "serve")
	if err != nil {
		return err
	}
	defer stop()
	ours, peer := s.inLab(d, s.tool("rr"), fmt.Sprint(dataClient), s.count(8000), peerAddr)
	got, err := interleave(ctx, max(s.opts.rounds, intervalRounds), side{"run", ours.number}, side{"ip-netns", peer.number})
	if err != nil {
		return err
	}
	r.add(figure{
		name: "data-rr64", unit: "ns", ours: got[0], peer: "ip-netns", theirs: got[1],
		goal: sameAsPeer{},
	})
	return nil
}

// ticksTrial counts the CPU time of the daemon while data flows. The run
// has begun and the sockets are made when it starts to count.
func ticksTrial(ctx context.Context, s *site, r *report) error {
	d, err := s.daemon(ctx, configOwn)
	if err != nil {
		return err
	}
	stop, err := s.serveIperf(ctx)
	if err != nil {
		return err
	}
	defer stop()
	seconds := s.seconds(10)
	ours, _ := s.inLab(d, iperf(seconds+2)...)
	done := make(chan error, 1)
	go func() {
		_, err := ours.output(ctx)
		done <- err
	}()
	time.Sleep(time.Second)
	before, err := cpuTicks(d.pid())
	if err != nil {
		return errors.Join(err, <-done)
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	after, err := cpuTicks(d.pid())
	if err := errors.Join(err, <-done); err != nil {
		return err
	}
	r.add(figure{name: "data-daemon-ticks", unit: "ticks", ours: []float64{after - before}, goal: valueAtMost(0)})
	return nil
}
