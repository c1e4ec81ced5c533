package soccr

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A handshake that was under way ends on the restored socket.
func TestRestoreSynSent(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			enterNetNS(t)
			l, port := listen(t, f.domain, f.lo)
			hear := deafen(t, l) // the first SYN is lost
			a := open(t, f.domain)
			check(t, unix.SetNonblock(a, true))
			check(t, unix.SetsockoptInt(a, unix.SOL_TCP, unix.TCP_MAXSEG, 1111))
			check(t, unix.SetsockoptInt(a, unix.SOL_TCP, unix.TCP_SYNCNT, 4))
			if err := unix.Connect(a, mustSockaddr(t, a, f.lo, port)); err != unix.EINPROGRESS {
				t.Fatalf("connect: %v", err)
			}
			c := saveAndDiscard(t, a)
			if c.State != SynSent || !c.Remote.IsValid() || c.Options["TCP_MAXSEG"] != 1111 {
				t.Fatalf("saved %v to %v, TCP_MAXSEG %d", c.State, c.Remote, c.Options["TCP_MAXSEG"])
			}
			fd := open(t, f.domain)
			check(t, Restore(fd, c))
			if got := stateOf(t, fd); got != SynSent {
				t.Fatalf("restored to %v", got)
			}
			s, err := Pause(fd)
			check(t, err)
			again := mustConn(t, s)
			check(t, s.Resume())
			if again.OutqSeq != c.OutqSeq {
				t.Errorf("the SYN has number %d, had %d", again.OutqSeq-1, c.OutqSeq-1)
			}
			if diff := again.Options.Diff(c.Options); len(diff) > 0 {
				t.Errorf("options differ: %v", diff)
			}
			hear()
			waitState(t, fd, Established)
			p := &pair{t: t, a: fd, b: accept(t, l)}
			p.finish(fd, Established)
		})
	}
}

// A socket that never had a peer keeps its options and its address.
func TestRestoreUnconnected(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	a := open(t, unix.AF_INET)
	check(t, unix.Bind(a, mustSockaddr(t, a, "127.0.0.1", 4711)))
	check(t, unix.SetsockoptInt(a, unix.SOL_TCP, unix.TCP_NODELAY, 1))
	c := saveAndDiscard(t, a)
	if c.State != Close || c.Remote.IsValid() {
		t.Fatalf("saved %v to %v", c.State, c.Remote)
	}
	closeNow(t, a)
	fd := open(t, unix.AF_INET)
	check(t, Restore(fd, c))
	local, _, err := addresses(fd)
	check(t, err)
	nodelay, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY)
	check(t, err)
	if local != c.Local || nodelay != 1 {
		t.Errorf("got %v, TCP_NODELAY %d", local, nodelay)
	}
	check(t, unix.Listen(fd, 1)) // and is good for anything
}

// Two sockets are made into the two ends of a connection that never was,
// with libsoccr's verbs.
func TestConnectionFromNothing(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	end := func(d Data, local, remote string, recv, send []byte) (int, *Socket) {
		fd := open(t, unix.AF_INET)
		check(t, WriteOptions(fd, &Conn{Family: unix.AF_INET, Options: Options{"TCP_NODELAY": 1, "SO_REUSEADDR": 1}}))
		s, err := Pause(fd)
		check(t, err)
		s.SetAddr(mustAddrPort(local), mustAddrPort(remote))
		s.SetQueueBytes(RecvQueue, recv)
		s.SetQueueBytes(SendQueue, send)
		d.State, d.MSSClamp, d.OptMask = Established, 1400, OptTimestamps|OptSACK|OptWscale
		d.SndWscale, d.RcvWscale = 7, 7
		d.InqLen, d.OutqLen, d.UnsqLen = uint32(len(recv)), uint32(len(send)), uint32(len(send)/2)
		check(t, s.Restore(&d))
		if got := s.QueueBytes(SendQueue); !bytes.Equal(got, send) {
			t.Errorf("QueueBytes: %q", got)
		}
		return fd, s
	}
	// Numbers that wrap: a sends from 2^32-3 on.
	a, sa := end(Data{InqSeq: 1000, OutqSeq: 7}, "127.0.0.1:1", "127.0.0.1:2", []byte("unread"), []byte("0123456789"))
	b, sb := end(Data{InqSeq: 1<<32 - 3, OutqSeq: 1000}, "127.0.0.1:2", "127.0.0.1:1", nil, nil)
	check(t, sa.Resume())
	check(t, sb.Resume())
	readAll(t, "a", a, []byte("unread"))
	readAll(t, "b", b, []byte("0123456789"))
	writeAll(t, b, []byte("back"))
	readAll(t, "a", a, []byte("back"))
	got := Conn{Family: unix.AF_INET}
	check(t, ReadOptions(a, &got))
	if got.Options["TCP_NODELAY"] != 1 || got.Options["SO_REUSEADDR"] != 1 || got.Options["SO_BUF_LOCK"] != 0 {
		t.Errorf("options: %v", got.Options)
	}
}

// Full queues as large as the kernel lets them get, with windows that are
// closed on both sides.
func TestRestoreFullQueues(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	for _, f := range []string{"net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"} {
		sysctl(t, f, "4096 131072 33554432")
	}
	p := loPair(t, families[0])
	const size = 16 << 20
	for _, fd := range []int{p.a, p.b} {
		check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size))
		check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size))
	}
	fill := func(fd int) []byte {
		b := random(size * 5)
		check(t, unix.SetNonblock(fd, true))
		n := 0
		for idle := 0; idle < 100 && n < len(b); idle++ {
			if w, err := unix.Write(fd, b[n:]); err == nil {
				n, idle = n+w, 0
			}
			time.Sleep(time.Millisecond)
		}
		check(t, unix.SetNonblock(fd, false))
		return b[:n]
	}
	toA, toB := fill(p.b), fill(p.a)
	c := saveAndDiscard(t, p.a)
	t.Logf("%d bytes in the receive queue, %d in the send queue", c.InqLen, c.OutqLen)
	if c.InqLen < 4<<20 || c.OutqLen < 4<<20 {
		t.Fatal("the queues are too small: nothing is tested")
	}
	fd := open(t, unix.AF_INET)
	check(t, Restore(fd, c))
	p.toA, p.toB = toA, toB
	done := make(chan struct{})
	go func() { defer close(done); readAll(t, "b", p.b, toB) }()
	readAll(t, "a", fd, toA)
	<-done
	p.toA, p.toB = nil, nil
	p.finish(fd, Established)
}
