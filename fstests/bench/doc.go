// The bench command measures stackfs against the least that could do the
// same, and prints one line per figure:
//
//	name value unit ratio=R peer=NAME spread=LO..HI n=N goal<=X ok
//
// Ours and the peer take turns: n rounds, the order changing with each.
// value is the median of ours, ratio the median of the rounds' ratios of
// ours to the peer's, spread the lowest and the highest of them. Figures
// that must not differ from the peer's have ci=LO..HI instead of a bound,
// the 95 % interval of the mean ratio, which is to contain 1; one run in
// twenty misses that by chance alone. A dash is where there is no peer.
//
// Names end in -same or -cross: the client and what answers it (the daemon
// with all its threads, or the peer's server) are on one CPU or on two. In
// -free they run where the scheduler puts them.
//
//	go run ./fstests/bench [--quick] [--only REGEXP] [--rounds N] [--strict]
//
// It needs root, build/stackfs, build/libmsocket.so, a C compiler, ip and
// iperf3. Everything that it makes is in namespaces of its own (mounts,
// processes, network), so nothing is left behind however it ends. The exit
// status is 0 unless something could not be measured or, with --strict, a
// goal was missed.
package main
