package snapshot

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// What no restore brings back is named, and nothing else.
func TestWhatWouldBeLost(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	for _, c := range []struct {
		lost string // empty: nothing
		make func(t *testing.T, p *pair)
	}{
		{"", func(*testing.T, *pair) {}},
		{"socket filter", func(t *testing.T, p *pair) { must(t, p.server.deafen()) }},
		{"SO_TIMESTAMPING", func(t *testing.T, p *pair) {
			must(t, unix.SetsockoptInt(p.server.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_SOFTWARE))
		}},
		{"IP options", func(t *testing.T, p *pair) {
			must(t, unix.SetsockoptString(p.server.fd, unix.SOL_IP, unix.IP_OPTIONS, "\x01\x01\x01\x00"))
		}},
		{"messages on the error queue", func(t *testing.T, p *pair) { // that a copy was not needed
			must(t, unix.SetsockoptInt(p.server.fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1))
			n, err := unix.SendmsgN(p.server.fd, stream(5000), nil, nil, unix.MSG_ZEROCOPY)
			if err != nil || n != 5000 {
				t.Fatalf("send: %d, %v", n, err)
			}
			must(t, p.server.awaitAcks())
			must(t, p.server.wait(unix.POLLERR))
		}},
	} {
		p := ns.mustPair(t, unix.AF_INET, v4Loopback)
		c.make(t, p)
		var want []string
		if c.lost != "" {
			want = []string{c.lost}
		}
		if got := mustTakeConn(t, s, ns, p.server).Info.Lost; !slices.Equal(got, want) {
			t.Errorf("lost: %q, want %q", got, want)
		}
	}
	ns.sysctl(t, "ipv4/tcp_ecn", "1")
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	got := mustTakeConn(t, s, ns, p.server)
	if !slices.Equal(got.Info.Lost, []string{"ECN"}) {
		t.Errorf("lost: %q, want ECN", got.Info.Lost)
	}
	mustMatch(t, s, ns, got, p.server)
}
