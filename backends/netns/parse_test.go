package netns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

func TestParseSockstat(t *testing.T) {
	t.Parallel()
	n, err := parseSockstat([]byte("sockets: used 17\nTCP: inuse 0 orphan 3 tw 0 alloc 2 mem 0\n"))
	if n != 17 || err != nil {
		t.Errorf("got %d, %v, want 17", n, err)
	}
	if _, err := parseSockstat([]byte("TCP: inuse 0\n")); err == nil {
		t.Error("no error without the line")
	}
}

func TestParseProtocols(t *testing.T) {
	t.Parallel()
	total, tcp, err := parseProtocols([]byte(
		"protocol  size sockets  memory press maxhdr  slab module     cl co di\n" +
			"PACKET    1600      1      -1   NI       0   no   kernel      n  n  n\n" +
			"TCPv6     2944      2       5   no     320   yes  kernel      y  y  y\n" +
			"TCP       2816      3       5   no     320   yes  kernel      y  y  y\n"))
	if total != 6 || tcp != 5 || err != nil {
		t.Errorf("got %d, %d, %v, want 6, 5", total, tcp, err)
	}
}

// diagMessage is one entry of a dump.
func diagMessage(timer uint8, inode uint32) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+sizeofDiagMsg)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	b[unix.SizeofNlMsghdr+offsetDiagTimer] = timer
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+offsetDiagInode:], inode)
	return b
}

func TestCountOrphans(t *testing.T) {
	t.Parallel()
	dump := slices.Concat(diagMessage(0, 0), diagMessage(1, 0), diagMessage(0, 4711), diagMessage(diagTimeWait, 0))
	if n, done, err := countOrphans(dump); n != 2 || done || err != nil {
		t.Errorf("got %d, %v, %v, want 2 and more to come", n, done, err)
	}
	fail := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(fail, uint32(len(fail)))
	binary.NativeEndian.PutUint16(fail[4:], unix.NLMSG_ERROR)
	eno := int32(unix.ENOENT)
	binary.NativeEndian.PutUint32(fail[unix.SizeofNlMsghdr:], uint32(-eno))
	if _, done, err := countOrphans(fail); !done || !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, %v, want ENOENT", done, err)
	}
}

func FuzzCountOrphans(f *testing.F) {
	f.Add(diagMessage(0, 0))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _ = countOrphans(b) })
}

func TestPlanOrder(t *testing.T) {
	t.Parallel()
	spec := stacknode.Spec{Name: "s", Netns: stacknode.NetnsSpec{
		NoMPTCP:   true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		Routes:    []stacknode.Route{{To: netip.MustParsePrefix("198.51.100.7/24")}},
		Uplink:    &stacknode.Uplink{Type: "veth"},
		Sysctl:    map[string]string{"net.ipv4.conf.eth0.forwarding": "1", "net.ipv4.ip_forward": "1"},
	}}
	var got []string
	for _, st := range plan(spec, "/run/x") {
		got = append(got, st.String())
	}
	want := []string{
		"sysctl net/mptcp/enabled", "sysctl net/ipv4/ip_forward", "up lo", "veth eth0",
		"sysctl net/ipv4/conf/eth0/forwarding", "address 192.0.2.1/24 on eth0", "route to 198.51.100.0/24 dev eth0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	spec.Netns = stacknode.NetnsSpec{Name: "lab"}
	if steps := plan(spec, "/run/x"); len(steps) != 0 {
		t.Errorf("somebody else's namespace: got %v, want no step", steps)
	}
}

func TestJournalSurvivesAndKnowsItsNamespace(t *testing.T) {
	t.Parallel()
	spec := stacknode.Spec{Name: "s", Netns: stacknode.NetnsSpec{Name: "lab"}}
	dir, ns := t.TempDir(), stacknode.NSID{Dev: 4, Ino: 1}
	j, err := loadJournal(dir, spec, ns)
	if err != nil {
		t.Fatal(err)
	}
	st := step{Op: opSysctl, Key: "net/ipv4/ip_forward", Value: "1", Found: found{Old: "0"}}
	if err := j.put(st); err != nil {
		t.Fatal(err)
	}
	// A second time, what was there before the first stays.
	st.Found.Old = "1"
	if err := j.put(st); err != nil {
		t.Fatal(err)
	}
	j, err = loadJournal(dir, spec, ns)
	if err != nil || len(j.Steps) != 1 || j.Steps[0].Found.Old != "0" || j.Steps[0].Key != st.Key {
		t.Errorf("got %+v, %v", j, err)
	}
	other, err := loadJournal(dir, spec, stacknode.NSID{Dev: 4, Ino: 2})
	if err != nil || len(other.Steps) != 0 || len(other.lost) != 1 {
		t.Errorf("for another namespace: got %+v, %v", other, err)
	}
	if err := j.remove(st); err != nil {
		t.Fatal(err)
	}
	if left, err := hasEntries(dir); left || err != nil {
		t.Errorf("something left in %s: %v", dir, err)
	}
}

func TestRetriesEnd(t *testing.T) {
	t.Parallel()
	var r retries
	defer r.stop()
	if r.C() != nil {
		t.Error("a timer without names")
	}
	if n := r.later("a"); n != 1 {
		t.Errorf("got %d, want 1", n)
	}
	<-r.C()
	if w := r.waiting(); !slices.Equal(w, []string{"a"}) {
		t.Errorf("waiting: %q", w)
	}
	r.forget("a")
	r.arm()
	if w := r.waiting(); len(w) != 0 {
		t.Errorf("waiting: %q", w)
	}
}
