package snapshot

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// enum memory of bpf/snapshot.h, as bits.
const (
	inLinear = 1 << 0
	inPages  = 1 << 1
	inList   = 1 << 2
)

// memory tells where the bytes of the only connection of the last pass were.
func (s *Snapshotter) memoryUsed() uint32 {
	s.pass.Lock()
	defer s.pass.Unlock()
	return s.engine.slots[0].Memory
}

// A wire is two namespaces joined by a veth pair.
type wire struct {
	a, b  *space
	addrA netip.Addr
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{a: newSpace(t), b: newSpace(t), addrA: netip.MustParseAddr("192.0.2.1")}
	var other int // the thread in b
	w.b.mustDo(t, func() error {
		other = unix.Gettid()
		return nil
	})
	w.a.mustDo(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "wire"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "wire", PeerNamespace: netlink.NsPid(other)})
	})
	for addr, ns := range map[string]*space{"192.0.2.1/24": w.a, "192.0.2.2/24": w.b} {
		ns.mustDo(t, func() error {
			l, err := netlink.LinkByName("wire")
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return err
			}
			return netlink.LinkSetUp(l)
		})
	}
	return w
}

// mustPair connects a client in b to a server in a.
func (w *wire) mustPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{}
	t.Cleanup(p.Close)
	var l *end
	var to unix.Sockaddr
	w.a.mustDo(t, func() (err error) {
		l, to, err = listen(unix.AF_INET, w.addrA)
		return err
	})
	defer l.Close()
	w.b.mustDo(t, func() (err error) {
		p.client, err = dial(unix.AF_INET, to)
		return err
	})
	var err error
	p.server, err = l.accept()
	must(t, err)
	return p
}

// Data that came in over an interface, not as the sender's own buffers.
func TestReceivedOverVeth(t *testing.T) {
	s := mustNew(t)
	for _, c := range []struct {
		name          string
		sg, tso, gro  uint32
		chunk         int // bytes that are written at once
		memory, never uint32
	}{
		{"as it is", 1, 1, 0, 1 << 20, inPages, inList},
		{"GRO of pages", 1, 0, 1, 1 << 20, inPages, 0},
		{"linear", 0, 0, 0, 1000, inLinear, inList},
		{"GRO of linear", 0, 0, 1, 1 << 20, inLinear | inList, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t)
			w.b.mustDo(t, func() error { return ethtool("wire", ethtoolSTSO, c.tso) })
			w.b.mustDo(t, func() error { return ethtool("wire", ethtoolSSG, c.sg) })
			w.a.mustDo(t, func() error { return ethtool("wire", ethtoolSGRO, c.gro) })
			p := w.mustPair(t)
			p.server.force(t, 4<<20)
			data := stream(1 << 20)
			for at := 0; at < len(data); at += c.chunk {
				mustSend(t, p.client, data[at:min(at+c.chunk, len(data))])
			}
			must(t, p.server.await(len(data)))
			must(t, p.client.awaitAcks())
			got := mustTakeConn(t, s, w.a, p.server)
			if !bytes.Equal(got.Recv, data) {
				t.Errorf("%d other bytes than were sent", len(got.Recv))
			}
			if m := s.memoryUsed(); m&c.memory != c.memory || m&c.never != 0 {
				t.Errorf("memory %03b, want %03b and not %03b", m, c.memory, c.never)
			}
			mustMatch(t, s, w.a, got, p.server)
		})
	}
}

// Data in pages that are not the kernel's own: of a file, of a pipe, of the
// owner. In flight they are where they were.
func TestSentWithoutCopy(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	data := stream(300_000)
	file, err := os.Create(filepath.Join(t.TempDir(), "data"))
	must(t, err)
	defer file.Close()
	_, err = file.Write(data)
	must(t, err)
	for _, c := range []struct {
		name string
		send func(t *testing.T, fd int) (int, error)
	}{
		{"sendfile", func(t *testing.T, fd int) (int, error) {
			var off int64 = 5000
			return unix.Sendfile(fd, int(file.Fd()), &off, 200_000)
		}},
		{"splice", func(t *testing.T, fd int) (int, error) {
			r, w, err := os.Pipe()
			must(t, err)
			defer r.Close()
			defer w.Close()
			n, err := unix.Vmsplice(int(w.Fd()), []unix.Iovec{iovec(data[5000:200_000])}, 0)
			must(t, err)
			m, err := unix.Splice(int(r.Fd()), nil, fd, nil, n, unix.SPLICE_F_NONBLOCK)
			return int(m), err
		}},
		{"MSG_ZEROCOPY", func(t *testing.T, fd int) (int, error) {
			must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1))
			return unix.SendmsgN(fd, data[5000:200_000], nil, nil, unix.MSG_ZEROCOPY|unix.MSG_DONTWAIT)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := ns.mustPair(t, unix.AF_INET6, mappedLoopback)
			p.server.force(t, 1<<20)
			must(t, p.client.deafen())
			mustSend(t, p.server, data[:5000])
			n, err := c.send(t, p.server.fd)
			if err != nil || n < 10_000 {
				t.Fatalf("sent %d bytes: %v", n, err)
			}
			mustSend(t, p.server, data[5000+n:5000+n+1000])
			got := mustTakeConn(t, s, ns, p.server)
			if !bytes.Equal(got.Send, data[:5000+n+1000]) {
				t.Errorf("%d other bytes than the %d that were sent", len(got.Send), 5000+n+1000)
			}
			mustMatch(t, s, ns, got, p.server)
		})
	}
}

// A huge page is one page for the kernel: offsets in it are large.
func TestSentFromHugePage(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	const huge = 2 << 20
	mem, err := unix.Mmap(-1, 0, 2*huge, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(t, err)
	defer unix.Munmap(mem)
	if err := unix.Madvise(mem, unix.MADV_HUGEPAGE); err != nil {
		skip(t, "needs transparent huge pages: %v", err)
	}
	fillStream(mem)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	p.server.force(t, 4*huge)
	must(t, unix.SetsockoptInt(p.server.fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1))
	must(t, p.client.deafen())
	total := 0
	for total < huge {
		n, err := unix.SendmsgN(p.server.fd, mem[total:min(total+500_000, len(mem))], nil, nil, unix.MSG_ZEROCOPY|unix.MSG_DONTWAIT)
		must(t, err)
		total += n
	}
	got := mustTakeConn(t, s, ns, p.server)
	if !bytes.Equal(got.Send, mem[:total]) {
		t.Errorf("%d other bytes than the %d that were sent", len(got.Send), total)
	}
	mustMatch(t, s, ns, got, p.server)
}
