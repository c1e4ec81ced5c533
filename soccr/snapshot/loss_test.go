package snapshot

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// filter attaches a classic BPF program that sees each packet that arrives,
// before the socket does.
func (e *end) filter(t testing.TB, program ...unix.SockFilter) {
	t.Helper()
	must(t, unix.SetsockoptSockFprog(e.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}))
}

// lose drops that many of 256 packets that arrive, at random.
func (e *end) lose(t testing.TB, of256 uint32) {
	t.Helper()
	const random = 0xfffff000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM
	e.filter(t,
		unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: random},
		unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xff},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: of256, Jt: 0, Jf: 1},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	)
}

// truncate cuts packets that arrive to n bytes with their header.
func (e *end) truncate(t testing.TB, n uint32) {
	t.Helper()
	e.filter(t, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: n})
}

// sacked tells how much of the retransmission queue of a socket the peer has
// out of order, in segments.
func (e *end) sacked(t testing.TB) uint32 {
	t.Helper()
	info, err := unix.GetsockoptTCPInfo(e.fd, unix.SOL_TCP, unix.TCP_INFO)
	must(t, err)
	return info.Sacked
}

// Packets get lost at random while the queue drains: the peer acknowledges
// out of order, and the kernel splits and joins the buffers of the
// retransmission queue.
func TestRetransmissionQueueWithHoles(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	ns.raiseLimits(t)
	ns.mustDo(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(lo, 1500)
	})
	data := stream(3 << 20)
	holes, ooo := 0, 0
	for round := range 4 {
		p := ns.mustPair(t, families[round%3].family, families[round%3].addr)
		p.server.force(t, 8<<20)
		p.client.force(t, 8<<20)
		p.client.lose(t, 40)
		origin := mustTakeConn(t, s, ns, p.server).OutqSeq
		mustSend(t, p.server, data)
		for range 100 {
			results := mustTakeAll(t, s, ns, []*end{p.server, p.client})
			for i, r := range results {
				if r.Err != nil {
					t.Fatalf("end %d: %v", i, r.Err)
				}
			}
			server, client := results[0].Conn, results[1].Conn
			at := int(server.OutqSeq - origin - server.OutqLen)
			if !bytes.Equal(server.Send, data[at:]) {
				t.Fatalf("send queue at %d: other bytes than were sent", at)
			}
			if !bytes.Equal(client.Recv, data[:len(client.Recv)]) {
				t.Fatalf("receive queue: %d other bytes than were sent", len(client.Recv))
			}
			if p.server.sacked(t) > 0 {
				holes++
			}
			if len(client.Info.Lost) > 1 { // the filter, and this
				ooo++
			}
			if server.OutqLen == 0 {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	if holes == 0 || ooo == 0 {
		t.Errorf("%d times out of order at the sender, %d times at the receiver: nothing was tested", holes, ooo)
	}
}

// The peer acknowledged the first bytes of a buffer that the kernel does not
// cut: it takes only what it saw of a truncated packet.
func TestPartlyAcknowledged(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	for _, size := range []int{3000, 30_000, 300_000} {
		p := ns.mustPair(t, unix.AF_INET, v4Loopback)
		p.server.force(t, 1<<20)
		origin := mustTakeConn(t, s, ns, p.server).OutqSeq
		p.client.truncate(t, 1000)
		data := stream(size)
		mustSend(t, p.server, data)
		must(t, p.client.await(500))
		must(t, p.client.deafen())
		got := mustTakeConn(t, s, ns, p.server)
		acked := int(got.OutqSeq - origin - got.OutqLen)
		if acked == 0 || acked == size {
			t.Errorf("%d of %d bytes acknowledged, want some", acked, size)
		}
		if !bytes.Equal(got.Send, data[acked:]) {
			t.Errorf("%d of %d bytes acknowledged: other bytes than were sent", acked, size)
		}
		// Not mustMatch: repair mode shows the acknowledged bytes too, and
		// soccr refuses that (tcp_peek_sndq).
	}
}

// A segment may bring bytes again that came before and are not read yet,
// with more after them. The kernel queues it whole.
func TestReceivedTwice(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	ns.sysctl(t, "ipv4/tcp_timestamps", "0") // so that the forged segment needs no options
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	data := stream(3000)
	mustSend(t, p.client, data[:2000])
	must(t, p.server.await(2000))
	before := mustTakeConn(t, s, ns, p.server)
	must(t, p.client.deafen()) // it would answer the acknowledgement of what it did not send
	ns.mustDo(t, func() error { return forge(before, before.InqSeq-700, data[1300:]) })
	must(t, p.server.await(3000))
	got := mustTakeConn(t, s, ns, p.server)
	if !bytes.Equal(got.Recv, data) {
		t.Errorf("receive queue: %d other bytes than were sent", len(got.Recv))
	}
	mustMatch(t, s, ns, got, p.server)
}

// forge sends a segment to a socket as if it came from its peer (IPv4).
func forge(to *soccr.Conn, seq uint32, payload []byte) error {
	be := binary.BigEndian
	src, dst := to.Remote.Addr().As4(), to.Local.Addr().As4()
	tcp := make([]byte, 20, 20+len(payload))
	be.PutUint16(tcp, to.Remote.Port())
	be.PutUint16(tcp[2:], to.Local.Port())
	be.PutUint32(tcp[4:], seq)
	be.PutUint32(tcp[8:], to.OutqSeq)
	tcp[12], tcp[13] = 5<<4, 0x18 // PSH, ACK
	be.PutUint16(tcp[14:], 65535)
	tcp = append(tcp, payload...)

	pseudo := append(append(append([]byte{}, src[:]...), dst[:]...), 0, unix.IPPROTO_TCP, byte(len(tcp)>>8), byte(len(tcp)))
	var sum uint32
	for _, b := range [][]byte{pseudo, tcp} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(be.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	be.PutUint16(tcp[16:], ^uint16(sum))

	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: src}); err != nil {
		return err
	}
	return unix.Sendto(fd, tcp, 0, &unix.SockaddrInet4{Addr: dst})
}
