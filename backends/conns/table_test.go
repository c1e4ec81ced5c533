package conns

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/worker"
	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/stacknode"
)

func FuzzParseEntry(f *testing.F) {
	f.Add(make([]byte, sizeofDiagMsg))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, _, err := parseEntry(b)
		if (err != nil) != (len(b) < sizeofDiagMsg) {
			t.Errorf("%d bytes: got %v", len(b), err)
		}
		_ = e.conn(nil)
		_ = e.timerText()
	})
}

func TestTableHasEveryFamily(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	for _, tt := range []struct {
		at, shown string
		family    int
	}{
		{"127.0.0.1:4001", "127.0.0.1:4001", stacknode.AFInet},
		{"[2001:db8::1]:4002", "[2001:db8::1]:4002", stacknode.AFInet6},
		{"[::ffff:192.0.2.1]:4003", "[::ffff:192.0.2.1]:4003", stacknode.AFInet6},
		{"[fe80::7%v0]:4004", "[fe80::7%v0]:4004", stacknode.AFInet6},
	} {
		p := connect(t, w, tt.at)
		if _, err := unix.Write(p.client, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		list, err := s.Conns(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range []int{p.listener, p.server, p.client} {
			c, err := s.Conn(ctx, cookieOf(t, fd))
			if err != nil {
				t.Fatalf("%s: %v", tt.at, err)
			}
			if i := slices.IndexFunc(list, func(l stacknode.Conn) bool { return l.Cookie == c.Cookie }); i < 0 {
				t.Errorf("%s: not in the list", tt.at)
			} else if l := list[i]; l.Local != c.Local || l.Inode != c.Inode || l.State != c.State {
				t.Errorf("%s: got %+v and %+v", tt.at, l, c)
			}
			if c.Family != tt.family || c.Inode != inodeOf(t, fd) || c.UID != 0 {
				t.Errorf("%s: got %+v, want inode %d", tt.at, c, inodeOf(t, fd))
			}
			at := c.Local
			switch fd {
			case p.client:
				at = c.Remote
			case p.server:
				if c.RecvQ != 5 {
					t.Errorf("%s: %d bytes in the receive queue, want 5", tt.at, c.RecvQ)
				}
			case p.listener:
				if c.State != stacknode.StateListen || c.Remote.IsValid() || c.SendQ != 16 {
					t.Errorf("%s: listener: got %+v", tt.at, c)
				}
			}
			if at.String() != tt.shown {
				t.Errorf("%s: got %s", tt.at, at)
			}
		}
	}
}

func TestConnThatEndedIsNone(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	p := connect(t, w, "127.0.0.1:4001")
	cookie := cookieOf(t, p.client)
	if _, err := s.Conn(ctx, cookie); err != nil {
		t.Fatal(err)
	}
	// Both ends reset, so no TIME_WAIT is left, and the same addresses again.
	for _, fd := range []int{p.client, p.server} {
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			t.Fatal(err)
		}
	}
	sa, err := unix.Getsockname(p.client)
	if err != nil {
		t.Fatal(err)
	}
	closeFD(&p.client)
	closeFD(&p.server)
	err = w.Do(func() (err error) {
		if p.client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(p.client, sa); err != nil {
			return err
		}
		_, to := sockaddr(netip.MustParseAddrPort("127.0.0.1:4001"))
		if err := unix.Connect(p.client, to); err != nil {
			return err
		}
		p.server, _, err = unix.Accept4(p.listener, unix.SOCK_CLOEXEC)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := s.Conn(ctx, cookie); !errors.Is(err, stacknode.ErrNoConn) {
		t.Errorf("got %+v, %v, want ErrNoConn", c, err)
	}
	if c, err := s.Conn(ctx, cookieOf(t, p.client)); err != nil || c.State != "established" {
		t.Errorf("the new one: got %+v, %v", c, err)
	}
	if _, err := s.Conn(ctx, 1<<60); !errors.Is(err, stacknode.ErrNoConn) {
		t.Errorf("a cookie that nobody has: got %v, want ErrNoConn", err)
	}
}

// The kernel's lookup finds one member of such a group, whichever it likes.
func TestEveryListenerOfAGroupIsFound(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	for range 5 {
		fd := listen(t, w, "127.0.0.1:4001")
		for range 2 {
			c, err := s.Conn(ctx, cookieOf(t, fd))
			if err != nil || c.Inode != inodeOf(t, fd) {
				t.Errorf("got %+v, %v", c, err)
			}
		}
	}
}

func TestWhatIsNoSocketSaysWhatItLacks(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	p := connect(t, w, "127.0.0.1:4001")
	if err := unix.Shutdown(p.client, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	closeFD(&p.server) // the client's end waits
	asked := listen(t, w, "192.0.2.1:4001")
	if err := w.Do(func() error { return forgeSYN(netip.MustParseAddrPort("192.0.2.9:999"), asked) }); err != nil {
		t.Fatal(err)
	}
	connectOnly(t, w, "127.0.0.1:4001")
	want := map[string]string{
		"time-wait":   "owner, queues, checkpoint (the connection has ended",
		"syn-recv":    "owner, queues, checkpoint (the handshake is not finished",
		"established": "(it is not accepted yet",
		"listen":      "checkpoint (a listener has nothing to save)",
	}
	list, err := s.Conns(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		text, ok := want[c.State]
		if !ok || c.State == "established" && c.Inode != 0 {
			continue
		}
		delete(want, c.State)
		lines, err := s.ConnDetails(ctx, c.Cookie, true)
		if err != nil {
			t.Errorf("%s: %v", c.State, err)
			continue
		}
		if got := valueOf(lines, "lacks"); !strings.Contains(got, text) {
			t.Errorf("%s: lacks %q, want %q in it", c.State, got, text)
		}
		if c.State == "syn-recv" && c.Remote.String() != "192.0.2.9:999" {
			t.Errorf("syn-recv: got %+v", c)
		}
	}
	for state := range want {
		t.Errorf("%s: not in the list: %+v", state, list)
	}
}

// connectOnly makes a connection that nobody accepts.
func connectOnly(t testing.TB, w *worker.Worker, at string) (fd int) {
	t.Helper()
	err := w.Do(func() (err error) {
		family, sa := sockaddr(netip.MustParseAddrPort(at))
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
			return err
		}
		return unix.Connect(fd, sa)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// forgeSYN sends the listener a SYN from an address that never answers.
func forgeSYN(from netip.AddrPort, listener int) error {
	sa, err := unix.Getsockname(listener)
	if err != nil {
		return err
	}
	to := sa.(*unix.SockaddrInet4)
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(raw)
	b := make([]byte, 40)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	src := from.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], to.Addr[:])
	tcp := b[20:]
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], uint16(to.Port))
	tcp[12], tcp[13] = 5<<4, 2 // SYN
	binary.BigEndian.PutUint16(tcp[14:], 1000)
	sum := uint32(unix.IPPROTO_TCP + len(tcp))
	for i := 12; i < len(b); i += 2 { // both addresses, then the segment
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
	return unix.Sendto(raw, b, 0, to)
}

func valueOf(lines []stacknode.Line, key string) string {
	for _, l := range lines {
		if l.Key == key {
			return l.Value
		}
	}
	return ""
}

func TestDetails(t *testing.T) {
	w := newWorker(t, newNetNS(t))
	s := newStack(t, w, ModeOff)
	ctx := testContext(t)
	p := connect(t, w, "192.0.2.1:4001")
	if err := errors.Join(unix.SetsockoptInt(p.client, unix.SOL_SOCKET, unix.SO_MARK, 0x17),
		unix.SetsockoptInt(p.client, unix.SOL_IP, unix.IP_TOS, 0x10),
		unix.SetsockoptString(p.client, unix.SOL_TCP, unix.TCP_CONGESTION, "reno"),
		unix.Shutdown(p.client, unix.SHUT_RD)); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(p.server, make([]byte, 100000)); err != nil {
		t.Fatal(err)
	}
	info, err := unix.GetsockoptTCPInfo(p.client, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := s.ConnDetails(ctx, cookieOf(t, p.client), true)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"state": "established", "family": "inet", "remote": "192.0.2.1:4001", "uid": "0", "congestion": "reno",
		"shutdown": "read", "tos": "0x10", "mark": "0x17", "mss": plain.format(uint64(info.Snd_mss)),
	} {
		if got := valueOf(lines, key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"rtt-ms", "cwnd", "options", "memory", "bytes-received", "process"} {
		if valueOf(lines, key) == "" {
			t.Errorf("%s is missing: %v", key, lines)
		}
	}
	if lines, err = s.ConnDetails(ctx, cookieOf(t, p.client), false); err != nil || valueOf(lines, "process") != "" {
		t.Errorf("for others: got %v, %v, want no process", lines, err)
	}
}

func TestInfoFieldsAreThoseOfTCPInfo(t *testing.T) {
	var i unix.TCPInfo
	at := map[string]uintptr{
		"rtt-ms": unsafe.Offsetof(i.Rtt), "rttvar-ms": unsafe.Offsetof(i.Rttvar), "min-rtt-ms": unsafe.Offsetof(i.Min_rtt),
		"rto-ms": unsafe.Offsetof(i.Rto), "ato-ms": unsafe.Offsetof(i.Ato), "cwnd": unsafe.Offsetof(i.Snd_cwnd),
		"ssthresh": unsafe.Offsetof(i.Snd_ssthresh), "mss": unsafe.Offsetof(i.Snd_mss), "pmtu": unsafe.Offsetof(i.Pmtu),
		"rcv-mss": unsafe.Offsetof(i.Rcv_mss), "adv-mss": unsafe.Offsetof(i.Advmss), "snd-wnd": unsafe.Offsetof(i.Snd_wnd),
		"rcv-wnd": unsafe.Offsetof(i.Rcv_wnd), "rcv-space": unsafe.Offsetof(i.Rcv_space), "rcv-ssthresh": unsafe.Offsetof(i.Rcv_ssthresh),
		"rcv-rtt-ms": unsafe.Offsetof(i.Rcv_rtt), "unacked": unsafe.Offsetof(i.Unacked), "notsent": unsafe.Offsetof(i.Notsent_bytes),
		"retransmits": unsafe.Offsetof(i.Retransmits), "retrans": unsafe.Offsetof(i.Retrans), "retrans-total": unsafe.Offsetof(i.Total_retrans),
		"lost": unsafe.Offsetof(i.Lost), "sacked": unsafe.Offsetof(i.Sacked), "backoff": unsafe.Offsetof(i.Backoff),
		"probes": unsafe.Offsetof(i.Probes), "reordering": unsafe.Offsetof(i.Reordering), "reord-seen": unsafe.Offsetof(i.Reord_seen),
		"dsack-dups": unsafe.Offsetof(i.Dsack_dups), "out-of-order": unsafe.Offsetof(i.Rcv_ooopack),
		"bytes-sent": unsafe.Offsetof(i.Bytes_sent), "bytes-retrans": unsafe.Offsetof(i.Bytes_retrans),
		"bytes-acked": unsafe.Offsetof(i.Bytes_acked), "bytes-received": unsafe.Offsetof(i.Bytes_received),
		"segs-out": unsafe.Offsetof(i.Segs_out), "segs-in": unsafe.Offsetof(i.Segs_in),
		"data-segs-out": unsafe.Offsetof(i.Data_segs_out), "data-segs-in": unsafe.Offsetof(i.Data_segs_in),
		"delivered": unsafe.Offsetof(i.Delivered), "delivered-ce": unsafe.Offsetof(i.Delivered_ce),
		"pacing-rate": unsafe.Offsetof(i.Pacing_rate), "max-pacing-rate": unsafe.Offsetof(i.Max_pacing_rate),
		"delivery-rate": unsafe.Offsetof(i.Delivery_rate), "busy-ms": unsafe.Offsetof(i.Busy_time),
		"rwnd-limited-ms": unsafe.Offsetof(i.Rwnd_limited), "sndbuf-limited-ms": unsafe.Offsetof(i.Sndbuf_limited),
		"last-sent-ms": unsafe.Offsetof(i.Last_data_sent), "last-received-ms": unsafe.Offsetof(i.Last_data_recv),
		"last-ack-ms": unsafe.Offsetof(i.Last_ack_recv), "rehash": unsafe.Offsetof(i.Rehash), "rto-total": unsafe.Offsetof(i.Total_rto),
	}
	for _, f := range infoFields {
		if want, ok := at[f.key]; !ok || int(want) != f.offset {
			t.Errorf("%s: offset %d, want %d (%v)", f.key, f.offset, want, ok)
		}
	}
}

func TestInfoThatIsShortOrStrange(t *testing.T) {
	var l lines
	l.tcpInfo(make([]byte, 103))
	if len(l) != 0 {
		t.Errorf("too short: got %v", l)
	}
	b := make([]byte, 112)
	b[5], b[6], b[7] = soccr.OptSACK|soccr.OptWscale, 0x97, 1
	for i := 104; i < 112; i++ {
		b[i] = 0xff // pacing rate
	}
	l.tcpInfo(b)
	for key, want := range map[string]string{"options": "sack wscale:7,9", "app-limited": "true", "pacing-rate": "none", "delivered": ""} {
		if got := valueOf(l, key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

// Who waits for a look that the kernel does not end is told so in time.
func TestSilentKernel(t *testing.T) {
	goOn := make(chan bool)
	defer close(goOn)
	p := &passes[int, int]{patience: 20 * time.Millisecond, run: func([]int) (int, error) { <-goOn; return 1, nil }}
	for range 2 { // one that runs, one that waits for it
		if _, err := p.share(testContext(t), 1); !errors.Is(err, unix.ETIMEDOUT) {
			t.Errorf("got %v, want ETIMEDOUT", err)
		}
	}
	if tab := newTables(nil); tab.passes.patience == 0 || tab.looks.patience == 0 {
		t.Error("the tables wait for ever")
	}
}

func TestPassesAreShared(t *testing.T) {
	started, goOn := make(chan bool), make(chan bool)
	runs := 0
	p := &passes[int, int]{run: func(asked []int) (int, error) {
		runs++
		started <- true
		<-goOn
		return len(asked), nil
	}}
	var wg sync.WaitGroup
	got := make(chan int, 10)
	ask := func(ctx context.Context) {
		wg.Go(func() {
			n, err := p.share(ctx, 1)
			if err != nil {
				n = -1
			}
			got <- n
		})
	}
	ask(t.Context())
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 {
		ask(t.Context())
	}
	ask(ctx)
	cancel()
	if n := <-got; n != -1 {
		t.Errorf("who gave up got %d", n)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		n := 0
		if p.next != nil {
			n = len(p.next.asked)
		}
		p.mu.Unlock()
		if n == 5 || time.Now().After(deadline) {
			break
		}
	}
	goOn <- true
	if n := <-got; n != 1 {
		t.Errorf("the first: got a pass of %d", n)
	}
	<-started
	goOn <- true
	wg.Wait()
	for range 4 {
		if n := <-got; n != 5 {
			t.Errorf("who came meanwhile: got a pass of %d, want the one that they share", n)
		}
	}
	if runs != 2 {
		t.Errorf("%d passes, want 2", runs)
	}
}
