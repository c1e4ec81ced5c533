package snapshot

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// mustRefuse wants an UnsaveableError with a reason.
func mustRefuse(t *testing.T, r Result, reason string) {
	t.Helper()
	var why *soccr.UnsaveableError
	if !errors.As(r.Err, &why) || why.Reason != reason || r.Conn != nil {
		t.Errorf("got %v, want a refusal for %q", r.Err, reason)
	}
}

func TestListenerIsRefused(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	for _, f := range families {
		var l *end
		ns.mustDo(t, func() (err error) {
			l, _, err = listen(f.family, f.addr)
			return err
		})
		mustRefuse(t, mustTake(t, s, ns, l), "a listener is not a connection")
		l.Close()
	}
}

// Urgent data is refused from when it comes until the owner is past it.
func TestUrgentDataIsRefused(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	for _, inline := range []int{0, 1} {
		p := ns.mustPair(t, unix.AF_INET, v4Loopback)
		must(t, unix.SetsockoptInt(p.server.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, inline))
		mustSend(t, p.client, []byte("before"))
		must(t, unix.Sendto(p.client.fd, []byte("!"), unix.MSG_OOB, nil))
		mustSend(t, p.client, []byte("after"))
		must(t, p.server.await(6))
		mustRefuse(t, mustTake(t, s, ns, p.server), "1 byte of urgent data")
		for {
			n, err := unix.Read(p.server.fd, make([]byte, 100))
			if err == unix.EAGAIN {
				break
			}
			if n <= 0 || err != nil {
				t.Fatalf("read: %d, %v", n, err)
			}
		}
		mustMatch(t, s, ns, mustTakeConn(t, s, ns, p.server), p.server)
		mustTakeConn(t, s, ns, p.client)

		must(t, p.server.deafen())
		must(t, unix.Sendto(p.client.fd, []byte("!"), unix.MSG_OOB, nil))
		mustRefuse(t, mustTake(t, s, ns, p.client), "urgent data that was sent and is not acknowledged")
	}
}

func TestMPTCPIsRefused(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	var clients, servers [2]*end
	ns.mustDo(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_MPTCP)
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
			skip(t, "needs MPTCP: %v", err)
		}
		l, err := newEnd(fd, err)
		if err != nil {
			return err
		}
		defer l.Close()
		must(t, unix.Bind(l.fd, sockaddr(unix.AF_INET, v4Loopback)))
		must(t, unix.Listen(l.fd, 2))
		to, err := unix.Getsockname(l.fd)
		must(t, err)
		for i, protocol := range []int{unix.IPPROTO_MPTCP, unix.IPPROTO_TCP} {
			c, err := newEnd(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol))
			if err != nil {
				return err
			}
			clients[i] = c
			t.Cleanup(func() { c.Close() })
			if err := unix.Connect(c.fd, to); err != nil && err != unix.EINPROGRESS {
				return err
			}
			if servers[i], err = l.accept(); err != nil {
				return err
			}
			server := servers[i]
			t.Cleanup(func() { server.Close() })
		}
		return nil
	})
	// The connections that the table has are those of the subflows.
	refused := 0
	for _, row := range mustList(t, ns) {
		if row.cookie == clients[1].cookie || row.cookie == servers[1].cookie || row.state != soccr.Established {
			continue
		}
		mustRefuse(t, mustTake(t, s, ns, &end{cookie: row.cookie}), "MPTCP")
		refused++
	}
	if refused != 2 {
		t.Errorf("%d subflows, want 2", refused)
	}
	// Plain TCP that was accepted on a listener for MPTCP is just that.
	for _, e := range []*end{clients[1], servers[1]} {
		mustMatch(t, s, ns, mustTakeConn(t, s, ns, e), e)
	}
}

func TestMD5IsRefused(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	// Too late for the connection, which stands still from now on.
	if err := setMD5(p.client.fd, p.server.fd); errors.Is(err, unix.ENOPROTOOPT) {
		skip(t, "needs CONFIG_TCP_MD5SIG: %v", err)
	} else {
		must(t, err)
	}
	mustRefuse(t, mustTake(t, s, ns, p.client), "TCP-MD5 signatures")
	mustTakeConn(t, s, ns, p.server)
}

// A socket in a sockmap has its data handled by BPF, out of its queues.
func TestSockmapIsRefused(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported) {
		skip(t, "needs CONFIG_BPF_STREAM_PARSER: %v", err)
	}
	must(t, err)
	defer m.Close()
	must(t, m.Put(uint32(0), uint32(p.client.fd)))
	mustRefuse(t, mustTake(t, s, ns, p.client), "its data goes through BPF (sockmap)")
	must(t, m.Delete(uint32(0)))
	mustMatch(t, s, ns, mustTakeConn(t, s, ns, p.client), p.client)
}

func TestULPIsRefused(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	if err := unix.SetsockoptString(p.client.fd, unix.SOL_TCP, unix.TCP_ULP, "tls"); errors.Is(err, unix.ENOENT) {
		// No need of this test: no connection on this kernel can have it.
		t.Logf("without kTLS in this kernel: %v", err)
		return
	} else {
		must(t, err)
	}
	mustRefuse(t, mustTake(t, s, ns, p.client), "kTLS")
}

// Somebody else's repair mode is left alone; our own is no hindrance.
func TestRepairMode(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	mustSend(t, p.client, stream(1000))
	must(t, p.server.await(1000))
	sock, err := soccr.Pause(p.server.fd)
	must(t, err)
	if r := mustTake(t, s, ns, p.server); !errors.Is(r.Err, soccr.ErrRepair) || r.Conn != nil {
		t.Errorf("in repair mode: got %v, want %v", r.Err, soccr.ErrRepair)
	}
	held, err := s.TakeHeld(t.Context(), ns.netns(), []uint64{p.server.cookie})
	must(t, err)
	if held[0].Err != nil || string(held[0].Conn.Recv) != string(stream(1000)) {
		t.Errorf("held: %v", held[0].Err)
	}
	must(t, sock.Resume())
	mustTakeConn(t, s, ns, p.server)
}

// Data in the SYN is not in the send queue as other data is.
func TestDataInTheSynIsRefused(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	ns.sysctl(t, "ipv4/tcp_fastopen", "0x5") // client, and without a cookie
	var e *end
	ns.mustDo(t, func() error {
		l, to, err := listen(unix.AF_INET, v4Loopback)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		for range 2 { // fill the accept queue
			c, err := dial(unix.AF_INET, to)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
		}
		e, err = newEnd(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
		if err != nil {
			return err
		}
		t.Cleanup(func() { e.Close() })
		err = unix.Sendto(e.fd, []byte("hello"), unix.MSG_FASTOPEN, to)
		if err == unix.EINPROGRESS {
			err = nil
		}
		return err
	})
	mustRefuse(t, mustTake(t, s, ns, e), "data in the SYN (TCP Fast Open)")
}
