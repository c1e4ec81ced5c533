package msocket

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func TestParseResolvConf(t *testing.T) {
	conf := parseResolvConf([]byte(`# comment
nameserver 192.0.2.53
nameserver fe80::1%eth0
nameserver nonsense
nameserver 2001:db8::53
nameserver 192.0.2.99
search example.net. corp.example
options rotate ndots:2 timeout:1
`))
	if want := []string{"192.0.2.53:53", "[fe80::1%eth0]:53", "[2001:db8::53]:53"}; !slices.Equal(conf.servers, want) {
		t.Errorf("servers: got %q, want %q", conf.servers, want)
	}
	for name, want := range map[string][]string{
		"host":          {"host.example.net.", "host.corp.example.", "host."},
		"host.lab":      {"host.lab.example.net.", "host.lab.corp.example.", "host.lab."},
		"www.host.lab":  {"www.host.lab.", "www.host.lab.example.net.", "www.host.lab.corp.example."},
		"www.host.lab.": {"www.host.lab."},
	} {
		if got := conf.candidates(name); !slices.Equal(got, want) {
			t.Errorf("candidates(%q): got %q, want %q", name, got, want)
		}
	}
	if got := parseResolvConf(nil).servers; !slices.Equal(got, []string{"127.0.0.1:53"}) {
		t.Errorf("servers of an empty file: got %q", got)
	}
	if got := (*resolvConf)(nil).candidates("host"); !slices.Equal(got, []string{"host"}) {
		t.Errorf("candidates without a file: got %q", got)
	}
}

func TestParseHosts(t *testing.T) {
	text := []byte("192.0.2.1 one.lab one # two\n::ffff:192.0.2.9 mapped\n2001:db8::1\tONE\nx one\n192.0.2.2 two\n")
	for name, want := range map[string]string{
		"one": "[192.0.2.1 2001:db8::1]", "One.lab.": "[192.0.2.1]", "two": "[192.0.2.2]", "mapped": "[192.0.2.9]", "three": "[]",
	} {
		if got := fmt.Sprint(parseHosts(text, name)); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestPartitionKeepsOrder(t *testing.T) {
	a, b, c := netip.MustParseAddr("::1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::2")
	first, others := partition([]netip.Addr{a, b, c})
	if !slices.Equal(first, []netip.Addr{a, c}) || !slices.Equal(others, []netip.Addr{b}) {
		t.Errorf("got %v and %v", first, others)
	}
}

func TestServerThatFailsIsPassedOnce(t *testing.T) {
	r := &nameServers{}
	r.next(0, 3)
	r.next(0, 3) // a second query that had asked the same one
	if r.current != 1 {
		t.Errorf("current: got %d, want 1", r.current)
	}
	r.next(1, 3)
	r.next(2, 3)
	if r.current != 0 {
		t.Errorf("current: got %d, want 0 again", r.current)
	}
}
