package snapshot

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How long a snapshot takes, and how much of that the connection is locked,
// by the size of each of its queues.
func BenchmarkTake(b *testing.B) {
	s, ns := mustNew(b), newSpace(b)
	ns.raiseLimits(b)
	for _, size := range []int{0, 64 << 10, 1 << 20, 4 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			p := ns.mustPair(b, unix.AF_INET, v4Loopback)
			p.server.force(b, 2*size+1)
			data := stream(size)
			mustSendSlowly(b, p.client, p.server, data)
			must(b, p.client.deafen())
			mustFill(b, p.server, data)
			mustTakeConn(b, s, ns, p.server) // the arena grows
			benchmarkTake(b, s, ns, p.server)
		})
	}
}

// The same where each buffer has but one segment, as after writes that may not
// be joined, or on a card without offloads.
func BenchmarkTakeSegments(b *testing.B) {
	const segment = 1448
	s, ns := mustNew(b), newSpace(b)
	ns.raiseLimits(b)
	p := ns.mustPair(b, unix.AF_INET, v4Loopback)
	p.server.force(b, 8<<20)
	must(b, p.client.deafen())
	data := stream(segment)
	for range 2 << 20 / segment {
		if err := unix.Send(p.server.fd, data, unix.MSG_DONTWAIT|unix.MSG_EOR); err != nil {
			b.Fatal(err)
		}
	}
	mustTakeConn(b, s, ns, p.server)
	benchmarkTake(b, s, ns, p.server)
}

// The same of one connection among many others.
func BenchmarkTakeAmong10000(b *testing.B) {
	s, ns := mustNew(b), newSpace(b)
	ends := ns.mustPairs(b, 5000)
	b.Run("one", func(b *testing.B) { benchmarkTake(b, s, ns, ends[0]) })
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			mustTakeAll(b, s, ns, ends)
		}
	})
}

func benchmarkTake(b *testing.B, s *Snapshotter, ns *space, e *end) {
	var held time.Duration
	for b.Loop() {
		r, err := s.Take(context.Background(), ns.netns(), []uint64{e.cookie})
		if err != nil || r[0].Err != nil {
			b.Fatal(err, r)
		}
		held += r[0].Held
	}
	b.ReportMetric(float64(held.Microseconds())/float64(b.N), "locked-us/op")
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		s := mustNew(b)
		must(b, s.Close())
	}
}
