package snapshot

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// raiseLimits lets buffers grow to 16 MiB by themselves, and to any size by
// force.
func (s *space) raiseLimits(t testing.TB) {
	s.sysctl(t, "ipv4/tcp_rmem", "4096 131072 16777216")
	s.sysctl(t, "ipv4/tcp_wmem", "4096 16384 16777216")
}

// force sets the buffers of a socket, in bytes of data.
func (e *end) force(t testing.TB, n int) {
	t.Helper()
	must(t, unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n))
	must(t, unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n))
}

// Both queues of a socket, from empty to what the kernel lets them be.
func TestQueueSizes(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	ns.raiseLimits(t)
	for _, size := range []int{0, 1, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 40 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			p := ns.mustPair(t, unix.AF_INET, v4Loopback)
			p.server.force(t, 2*size)
			data := stream(size)
			mustSendSlowly(t, p.client, p.server, data)
			must(t, p.client.deafen())
			sent := mustFill(t, p.server, data)
			if len(sent) < size*3/4 {
				t.Fatalf("the send queue takes only %d bytes", len(sent))
			}
			got := mustTakeConn(t, s, ns, p.server)
			if !bytes.Equal(got.Recv, data) {
				t.Errorf("receive queue: %d other bytes than were sent", len(got.Recv))
			}
			if !bytes.Equal(got.Send, sent) {
				t.Errorf("send queue: %d other bytes than were sent", len(got.Send))
			}
			mustMatch(t, s, ns, got, p.server)
		})
	}
	if s.engine.arena.blocks() < 16 {
		t.Errorf("the arena has %d blocks after 80 MiB", s.engine.arena.blocks())
	}
	// Much later.
	s.used = time.Now().Add(-idleTime)
	s.shrinkNow()
	if s.engine.arena.blocks() != 1 {
		t.Errorf("the arena has %d blocks after it was idle", s.engine.arena.blocks())
	}
	mustTakeConn(t, s, ns, ns.mustPair(t, unix.AF_INET, v4Loopback).client)
}

// mustSendSlowly fills a receive queue, whose window opens bit by bit.
func mustSendSlowly(t testing.TB, from, to *end, b []byte) {
	t.Helper()
	for at := 0; at < len(b); {
		n, err := from.send(b[at:min(at+256<<10, len(b))])
		must(t, err)
		at += n
		if n == 0 {
			must(t, from.wait(unix.POLLOUT))
		}
	}
	must(t, to.await(len(b)))
}

// Each end of many small writes, which the kernel joins or not.
func TestSmallWrites(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET6, mappedLoopback)
	for _, e := range []*end{p.client, p.server} {
		must(t, unix.SetsockoptInt(e.fd, unix.SOL_TCP, unix.TCP_NODELAY, 1))
	}
	data := stream(40_000)
	for at, n := 0, 1; at < len(data); at, n = at+n, n*7%97+1 {
		mustSend(t, p.client, data[at:min(at+n, len(data))])
	}
	must(t, p.server.await(len(data)))
	must(t, p.client.deafen())
	for at, n := 0, 1; at < len(data); at, n = at+n, n*7%97+1 {
		mustSend(t, p.server, data[at:min(at+n, len(data))])
	}
	got := mustTakeConn(t, s, ns, p.server)
	if !bytes.Equal(got.Recv, data) || !bytes.Equal(got.Send, data) {
		t.Errorf("got %d and %d other bytes than were sent", len(got.Recv), len(got.Send))
	}
	mustMatch(t, s, ns, got, p.server)
}

// More connections than the arena holds at once take several passes.
func TestArenaInSeveralPasses(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	ns.raiseLimits(t)
	const n, size = 12, 700 << 10
	data := stream(size)
	var ends []*end
	for range n {
		p := ns.mustPair(t, unix.AF_INET, v4Loopback)
		p.server.force(t, 2*size)
		mustSendSlowly(t, p.client, p.server, data)
		ends = append(ends, p.server, p.client)
	}
	before := s.passes.Load()
	for i, r := range mustTakeAll(t, s, ns, ends) {
		want := data
		if i%2 == 1 {
			want = nil
		}
		if r.Err != nil || !bytes.Equal(r.Conn.Recv, want) {
			t.Fatalf("connection %d: %v", i, r.Err)
		}
	}
	if passes := s.passes.Load() - before; passes < 2 || passes > 3 {
		t.Errorf("%d connections of %d bytes took %d passes", n, size, passes)
	}
}

// mustTakeAll takes snapshots of many.
func mustTakeAll(t testing.TB, s *Snapshotter, ns *space, ends []*end) []Result {
	t.Helper()
	cookies := make([]uint64, len(ends))
	for i, e := range ends {
		cookies[i] = e.cookie
	}
	results, err := s.Take(t.Context(), ns.netns(), cookies)
	if err != nil {
		t.Fatalf("Take: %v", err)
	}
	return results
}

func TestTooLargeQueuesAreRefused(t *testing.T) {
	o := bpfSlot{Status: bpfStatusNO_ROOM, RecvLen: 1 << 30, SendLen: 1 << 30}
	if err := o.failure(); err == nil || err.Error() != "not saveable: 2147483648 bytes in its queues, more than 1040122880" {
		t.Errorf("got %v", err)
	}
}

// The sequence numbers pass 2^32 between the first byte and the last.
func TestSequenceNumbersWrap(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	for i := range 4 {
		p := ns.mustPair(t, unix.AF_INET, v4Loopback)
		data := stream(64 << 10)
		restoreAt(t, ns, p, uint32(-i*20_000-1))
		mustSend(t, p.client, data)
		must(t, p.server.await(len(data)))
		must(t, p.client.deafen())
		sent := mustFill(t, p.server, data)
		got := mustTakeConn(t, s, ns, p.server)
		if !bytes.Equal(got.Recv, data) || !bytes.Equal(got.Send, sent) {
			t.Errorf("got %d and %d other bytes than were sent", len(got.Recv), len(got.Send))
		}
		mustMatch(t, s, ns, got, p.server)
	}
}

// restoreAt puts sockets in the place of the pair's whose connection is at a
// sequence number, in both directions.
func restoreAt(t *testing.T, ns *space, p *pair, seq uint32) {
	t.Helper()
	var conns []*soccr.Conn
	for _, e := range []*end{p.client, p.server} {
		sock, err := soccr.Pause(e.fd)
		must(t, err)
		c, err := sock.Conn()
		must(t, err)
		c.InqSeq, c.OutqSeq, c.SndWl1, c.RcvWup = seq, seq, seq, seq
		conns = append(conns, c)
		must(t, sock.Discard())
		e.Close()
	}
	var socks []*soccr.Socket
	for i, e := range []**end{&p.client, &p.server} {
		ns.mustDo(t, func() (err error) {
			*e, err = newEnd(unix.Socket(conns[i].Family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
			if err != nil {
				return err
			}
			sock, err := soccr.Pause((*e).fd)
			if err != nil {
				return err
			}
			socks = append(socks, sock)
			sock.SetAddr(conns[i].Local, conns[i].Remote)
			return sock.Restore(&conns[i].Data)
		})
	}
	// Packets may flow when both are there.
	for _, sock := range socks {
		must(t, sock.Resume())
	}
}
