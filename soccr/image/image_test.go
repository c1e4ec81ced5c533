package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image/internal/pb"
)

var (
	testKey  = bytes.Repeat([]byte{7}, KeySize)
	testSeal = &Seal{
		UID: 1000, BootID: [16]byte{1, 2, 3}, NetNS: 1 << 40, Stack: "lab", Nonce: [16]byte{15: 9},
	}
)

// ends are the addresses of a connection of each kind.
var ends = []struct {
	name          string
	family        int
	local, remote string
}{
	{"inet", syscall.AF_INET, "192.0.2.1:80", "192.0.2.2:4711"},
	{"inet6", syscall.AF_INET6, "[2001:db8::1]:80", "[2001:db8::2]:4711"},
	{"v4-mapped", syscall.AF_INET6, "[::ffff:192.0.2.1]:80", "[::ffff:192.0.2.2]:4711"},
	{"link-local", syscall.AF_INET6, "[fe80::1%eth0]:80", "[fe80::2%eth0]:4711"},
}

// newConn makes a connection with something in each field.
func newConn() *soccr.Conn {
	recv, send := []byte("unread"), []byte("in flightnot sent")
	return &soccr.Conn{
		Data: soccr.Data{
			State:  soccr.Established,
			InqLen: uint32(len(recv)), InqSeq: 0xfffffff0, OutqLen: uint32(len(send)), OutqSeq: 77, UnsqLen: 8,
			OptMask: soccr.OptTimestamps | soccr.OptSACK | soccr.OptWscale, MSSClamp: 1460, SndWscale: 7, RcvWscale: 9, Timestamp: 0xdeadbeef,
			HasWindow: true, SndWl1: 4, SndWnd: 64000, MaxWindow: 65000, RcvWnd: 60000, RcvWup: 0xffffffe0,
		},
		Family: syscall.AF_INET, Local: netip.MustParseAddrPort(ends[0].local), Remote: netip.MustParseAddrPort(ends[0].remote),
		Recv: recv, Send: send, Shutdown: 2,
		Options:    soccr.Options{"TCP_NODELAY": 1, "SO_LINGER": -1, "SO_RCVTIMEO": 1_500_000, "SO_MARK": 0xffffffff, "SO_MAX_PACING_RATE": -1},
		Congestion: "bbr", Device: "eth0",
		Meta: soccr.Meta{
			Cookie: 4097, Inode: 12345, UID: 1000, Time: time.Unix(1795600000, 123456789).UTC(), Live: true,
			Method: "bpf", NetNS: 1 << 63, Stack: "lab", Version: "0.1.0",
		},
		Info: soccr.Info{SndCwnd: 10, SndSsthresh: 1<<31 - 1, RTT: 1500 * time.Microsecond, RTTVar: 20 * time.Microsecond, Retransmits: 1,
			Lost: []string{"socket filter", "4096 out-of-order bytes"}},
	}
}

func mustEncode(tb testing.TB, c *soccr.Conn, opts Options) []byte {
	tb.Helper()
	b, err := Encode(c, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	states := []soccr.State{soccr.Established, soccr.SynSent, soccr.FinWait1, soccr.FinWait2, soccr.Close, soccr.CloseWait, soccr.LastAck, soccr.Closing}
	for _, end := range ends {
		for _, state := range states {
			for _, opts := range []Options{{}, {Seal: testSeal, Key: testKey}} {
				c := newConn()
				c.State = state
				c.Family, c.Local, c.Remote = end.family, netip.MustParseAddrPort(end.local), netip.MustParseAddrPort(end.remote)
				i, err := Decode(mustEncode(t, c, opts))
				if err != nil {
					t.Errorf("%s %s: %v", end.name, state, err)
					continue
				}
				if !reflect.DeepEqual(i.Conn, c) {
					t.Errorf("%s %s:\n got %+v\nwant %+v", end.name, state, i.Conn, c)
				}
				if i.Foreign || !reflect.DeepEqual(i.Seal, opts.Seal) {
					t.Errorf("%s %s: got foreign %v, seal %+v, want %+v", end.name, state, i.Foreign, i.Seal, opts.Seal)
				}
			}
		}
	}
}

func TestRoundTripOfLittle(t *testing.T) {
	t.Parallel()
	c := &soccr.Conn{
		Data: soccr.Data{State: soccr.Close}, Family: syscall.AF_INET, Local: netip.MustParseAddrPort("0.0.0.0:0"),
		Recv: []byte{}, Send: []byte{}, Options: soccr.Options{},
	}
	i, err := Decode(mustEncode(t, c, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(i.Conn, c) {
		t.Errorf("got %+v, want %+v", i.Conn, c)
	}
}

// refused checks that b is refused for a reason that has an errno.
func refused(b []byte) error {
	i, err := Decode(b)
	switch {
	case err == nil:
		return fmt.Errorf("decoded to %+v", i.Conn)
	case errors.Is(err, ErrDamaged) && errors.Is(err, syscall.EBADMSG), errors.Is(err, ErrVersion), errors.Is(err, ErrInvalid):
		return nil
	}
	return fmt.Errorf("an error of another kind: %w", err)
}

func TestEveryChangedByteIsFound(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{{}, {Seal: testSeal, Key: testKey}} {
		b := mustEncode(t, newConn(), opts)
		for off := range b {
			for x := 1; x < 256; x++ {
				changed := slices.Clone(b)
				changed[off] ^= byte(x)
				if err := refused(changed); err != nil {
					t.Fatalf("byte %d of %d changed from %#x to %#x: %v", off, len(b), b[off], changed[off], err)
				}
			}
		}
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	t.Parallel()
	b := mustEncode(t, newConn(), Options{Seal: testSeal, Key: testKey})
	for n := range b {
		if err := refused(b[:n]); err != nil {
			t.Errorf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
	for _, tail := range []string{"\x00", "xyz", string(b)} {
		if err := refused(append(slices.Clone(b), tail...)); err != nil {
			t.Errorf("%d bytes too many: %v", len(tail), err)
		}
	}
}

// frameOf puts an entry and the queues into a file.
func frameOf(entry, queues []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	b = binary.LittleEndian.AppendUint32(b, magicStream)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(entry)))
	return append(append(b, entry...), queues...)
}

// forge makes a file that has a right digest, and a right seal for a key, but
// whatever content.
func forge(tb testing.TB, c *soccr.Conn, seal *Seal, change func(x *pb.Extension), more ...byte) []byte {
	tb.Helper()
	head, err := proto.Marshal(streamEntry(c))
	if err != nil {
		tb.Fatal(err)
	}
	x := extensionOf(c, seal)
	if change != nil {
		change(x)
	}
	ext, err := proto.Marshal(x)
	if err != nil {
		tb.Fatal(err)
	}
	entry := protowire.AppendBytes(protowire.AppendTag(head, extField, protowire.BytesType), append(ext, more...))
	at := headerSize + len(entry)
	entry = append(append(entry, digestTag[:]...), make([]byte, sumSize)...)
	if seal != nil {
		entry = append(append(entry, sealTag[:]...), make([]byte, sumSize)...)
	}
	b := frameOf(entry, slices.Concat(c.Recv, c.Send))
	if seal != nil {
		copy(b[at+fieldSize+tagSize:], sealOf(testKey, b, at))
	}
	copy(b[at+tagSize:], digestOf(b, at))
	return b
}

func TestWhatNoConnectionIsIsRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		want   string
		change func(c *soccr.Conn)
	}{
		{"listener", "in the state listen", func(c *soccr.Conn) { c.State = soccr.Listen }},
		{"time-wait", "in the state time-wait", func(c *soccr.Conn) { c.State = soccr.TimeWait }},
		{"no state", "in the state unknown", func(c *soccr.Conn) { c.State = 0 }},
		{"state 99", "in the state state-99", func(c *soccr.Conn) { c.State = 99 }},
		{"more unsent than queued", "unsent", func(c *soccr.Conn) { c.UnsqLen = 100 }},
		{"wscale", "scaled by 15 and 9", func(c *soccr.Conn) { c.SndWscale = 15 }},
		{"no mss", "segment size of 0", func(c *soccr.Conn) { c.MSSClamp = 0 }},
		{"mss", "segments of 65536", func(c *soccr.Conn) { c.MSSClamp = 65536 }},
		{"window", "as the largest ever", func(c *soccr.Conn) { c.SndWnd = 65001 }},
		{"shutdown", "shutdown is 4", func(c *soccr.Conn) { c.Shutdown = 4 }},
		{"family", "address family 1 ", func(c *soccr.Conn) { c.Family = syscall.AF_UNIX }},
		{"inet with inet6 addresses", "not of the family", func(c *soccr.Conn) { c.Local = netip.MustParseAddrPort("[::1]:1") }},
		{"inet6 with an inet address", "not of the family", func(c *soccr.Conn) { c.Family = syscall.AF_INET6 }},
		{"half mapped", "one is IPv4", func(c *soccr.Conn) {
			c.Family = syscall.AF_INET6
			c.Local, c.Remote = netip.MustParseAddrPort(ends[2].local), netip.MustParseAddrPort(ends[1].remote)
		}},
		{"no peer", "remote address is missing", func(c *soccr.Conn) { c.Remote = netip.AddrPort{} }},
		{"no address", "local address is missing", func(c *soccr.Conn) { c.Local = netip.AddrPort{} }},
		{"to 0.0.0.0", "nobody is there", func(c *soccr.Conn) { c.Remote = netip.MustParseAddrPort("0.0.0.0:1") }},
		{"to 255.255.255.255", "nobody is there", func(c *soccr.Conn) { c.Remote = netip.MustParseAddrPort("255.255.255.255:1") }},
		{"to a group", "nobody is there", func(c *soccr.Conn) { c.Remote = netip.MustParseAddrPort("224.0.0.1:1") }},
		{"port 0", "port 0", func(c *soccr.Conn) { c.Remote = netip.MustParseAddrPort("192.0.2.2:0") }},
		{"zone", "not link-local", func(c *soccr.Conn) {
			c.Family, c.Local = syscall.AF_INET6, netip.MustParseAddrPort("[2001:db8::1%eth0]:80")
			c.Remote = netip.MustParseAddrPort("[2001:db8::2]:1")
		}},
		{"path as device", "no name of a device", func(c *soccr.Conn) { c.Device = "../x" }},
		{"long name", "no name of a congestion control", func(c *soccr.Conn) { c.Congestion = "0123456789abcdef" }},
		{"unknown name", "no name of a socket option", func(c *soccr.Conn) { c.Options["x"] = 1 }},
		{"linger", "from -1 to", func(c *soccr.Conn) { c.Options["SO_LINGER"] = -2 }},
		{"bool", "from 0 to 1", func(c *soccr.Conn) { c.Options["TCP_NODELAY"] = 2 }},
		{"int", "has the value", func(c *soccr.Conn) { c.Options["TCP_KEEPCNT"] = 1 << 31 }},
		{"time-out", "has the value", func(c *soccr.Conn) { c.Options["SO_RCVTIMEO"] = -1 }},
		{"buffer", "has the value", func(c *soccr.Conn) { c.Options["SO_RCVBUF"] = -1 }},
		{"round trip", "no time", func(c *soccr.Conn) { c.Info.RTT = -1 }},
		{"many options", "not as many", func(c *soccr.Conn) {
			for i := range 300 {
				c.Options[fmt.Sprint("SO_", i)] = 1
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newConn()
			test.change(c)
			_, err := Encode(c, Options{})
			if !errors.Is(err, ErrInvalid) || !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Encode: got %v, want %q", err, test.want)
			}
			_, err = Decode(forge(t, c, nil, nil))
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Decode: got %v, want %q", err, test.want)
			}
		})
	}
	c := newConn()
	c.Recv = c.Recv[1:]
	if _, err := Encode(c, Options{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a queue of another length: got %v, want ErrInvalid", err)
	}
}

func TestWhatNoFileSaysIsRefused(t *testing.T) {
	t.Parallel()
	good := mustEncode(t, newConn(), Options{})
	at := bytes.Index(good, digestTag[:])
	header := func(first, kind, size uint32, rest string) []byte {
		b := binary.LittleEndian.AppendUint32(nil, first)
		b = binary.LittleEndian.AppendUint32(b, kind)
		return append(binary.LittleEndian.AppendUint32(b, size), rest...)
	}
	digest := append(slices.Clone(digestTag[:]), make([]byte, sumSize)...)
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "the file is empty"},
		{"short", []byte("GET /"), "byte 5: the file ends within the first 12 bytes"},
		{"text", []byte("GET / HTTP/1.1\r\n"), "no CRIU image: the file begins with 0x20544547"},
		{"another image", header(magicCommon, 0x50273030, 0, ""), "a CRIU image of the kind PSTREE"},
		{"an unknown image", header(magicCommon, 1, 0, ""), "of the unknown kind 0x00000001"},
		{"long entry", header(magicCommon, magicStream, 100, "x"), "byte 8: the entry has 100 bytes, but only 1 follow: cut off?"},
		{"huge entry", header(magicCommon, magicStream, 1<<31, "x"), "byte 8: an entry of 2147483648 bytes"},
		{"empty entry", header(magicCommon, magicStream, 0, ""), "byte 12: the tcp_stream_entry is not complete: required field"},
		{"no entry", header(magicCommon, magicStream, 4, "\xff\xff\xff\xff"), "byte 12: no protobuf field"},
		{"group", header(magicCommon, magicStream, 2, "\xa3\x01"), "is a group"},
		{"queue too short", good[:len(good)-1], "the send queue (outq_len) has 17 bytes, but only 16 follow: cut off?"},
		{"queues too short", good[:len(good)-20], "the receive queue (inq_len) has 6 bytes, but only 3 follow"},
		{"queues too long", append(slices.Clone(good), 1), "1 bytes follow the queues"},
		{"field out of order", frameOf([]byte("\x10\x01\x08\x01"), nil), "byte 14: field 1 is out of order"},
		{"field twice", frameOf([]byte("\x08\x01\x08\x01"), nil), "byte 14: field 1 is out of order"},
		{"field of another type", frameOf([]byte("\x0a\x00"), nil), "field 1 is not a number of 32 bits"},
		{"field of 64 bits", frameOf([]byte("\x08\xff\xff\xff\xff\x7f"), nil), "field 1 is not a number of 32 bits"},
		{"digest alone", frameOf(digest, nil), "field 1001 is in the place of the extension"},
		{"no digest", frameOf(append([]byte("\xc2\x3e\x02\x08\x01"), "\x08\x01"...), nil), "the digest is missing"},
		{"something after the digest", frameOf(slices.Concat([]byte("\xc2\x3e\x02\x08\x01"), digest, []byte("\x08\x01")), nil), "does not end with"},
		{"no version", frameOf(slices.Concat([]byte("\xc2\x3e\x00"), digest), nil), "does not begin with its version"},
		{"version 0", frameOf(slices.Concat([]byte("\xc2\x3e\x02\x08\x00"), digest), nil), "does not begin with its version"},
		{"hidden extension", frameOf(append([]byte("\xa2\x01\x02xx"), digest...), nil), "is in the place of the extension"},
		{"swallowed extension", frameOf(append([]byte("\xa2\x01\x23"), digest...), nil), "ends as if it had an extension"},
		{"another digest", slices.Concat(good[:at+10], []byte{good[at+10] ^ 1}, good[at+11:]), "the digest does not match"},
		{"seal without a number", forge(t, newConn(), testSeal, func(x *pb.Extension) { x.Seal = nil }), "the seal is not complete"},
		{"seal without seal", forge(t, newConn(), nil, func(x *pb.Extension) { x.Seal = &pb.Seal{} }), "the seal is not complete"},
		{"short nonce", forge(t, newConn(), testSeal, func(x *pb.Extension) { x.Seal.Nonce = []byte{1} }), "wrong length"},
		{"option twice", forge(t, newConn(), nil, func(x *pb.Extension) { x.Options = append(x.Options, x.Options[0]) }), "is there twice"},
		{"address of 5 bytes", forge(t, newConn(), nil, func(x *pb.Extension) { x.Local.Ip = make([]byte, 5) }), "an address of 5 bytes"},
		{"port 65536", forge(t, newConn(), nil, func(x *pb.Extension) { x.Local.Port = 65536 }), "port 65536"},
		{"zone of an IPv4 address", forge(t, newConn(), nil, func(x *pb.Extension) { x.Local.Zone = []byte("eth0") }), "has an interface"},
		{"state 257", forge(t, newConn(), nil, func(x *pb.Extension) { x.State = 257 }), "state 257"},
		{"text that is none", forge(t, newConn(), nil, nil, 0x12, 1, 0xff), "no protobuf message"},
		{"large extension", forge(t, newConn(), nil, func(x *pb.Extension) { x.Congestion = make([]byte, maxExt) }), "at most 32768 are taken"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := Decode(test.b)
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestLaterVersions(t *testing.T) {
	t.Parallel()
	c := newConn()
	_, err := Decode(forge(t, c, nil, func(x *pb.Extension) { x.Format, x.Program = 2, "9.1\x1b[2J" }))
	want := "stackfs 9.1[2J wrote the image in format 2, and this program knows format 1: use stackfs 9.1[2J or later"
	if !errors.Is(err, ErrVersion) || !errors.Is(err, syscall.EPROTONOSUPPORT) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// Whatever a later format has behind the extension, and however large it is.
	ext := protowire.AppendString([]byte("\x08\x07\x12"), "10.0")
	ext = append(ext, "\xaa\x01\x80\x80\x04"...)
	ext = append(ext, make([]byte, 1<<16)...)
	entry := protowire.AppendBytes([]byte("\xc2\x3e"), ext)
	if _, err := Decode(frameOf(append(entry, "\xda\x3e\x00"...), nil)); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "stackfs 10.0 wrote") {
		t.Errorf("got %v, want ErrVersion", err)
	}
	// A field and an option that this version does not know.
	unknown := protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), "later")
	c.Options["TCP_LATER"] = 5
	i, err := Decode(forge(t, c, testSeal, nil, unknown...))
	if err != nil || !reflect.DeepEqual(i.Conn, c) {
		t.Fatalf("got %v, want the connection without the unknown field", err)
	}
	if err := i.CheckSeal(testKey); err != nil {
		t.Error(err)
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	sealed := mustEncode(t, newConn(), Options{Seal: testSeal, Key: testKey})
	i, err := Decode(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.CheckSeal(testKey); err != nil {
		t.Errorf("the right key: %v", err)
	}
	if err := i.CheckSeal(bytes.Repeat([]byte{8}, KeySize)); !errors.Is(err, ErrSeal) || !errors.Is(err, syscall.EPERM) {
		t.Errorf("another key: got %v, want ErrSeal", err)
	}
	if err := i.CheckSeal(testKey[1:]); !errors.Is(err, ErrInvalid) {
		t.Errorf("a short key: got %v, want ErrInvalid", err)
	}
	if _, err := Encode(newConn(), Options{Seal: testSeal, Key: testKey[1:]}); !errors.Is(err, ErrInvalid) {
		t.Errorf("Encode with a short key: got %v, want ErrInvalid", err)
	}
	i.Conn.Send[0] ^= 1
	if err := i.CheckSeal(testKey); !errors.Is(err, ErrSeal) {
		t.Errorf("after a change of the queue: got %v, want ErrSeal", err)
	}

	plain, err := Decode(mustEncode(t, newConn(), Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.CheckSeal(testKey); !errors.Is(err, ErrSeal) || !strings.Contains(err.Error(), "not sealed") {
		t.Errorf("an image without a seal: got %v, want ErrSeal", err)
	}
}

// TestNoSealFitsAChangedImage changes each byte of a sealed image and
// computes the digest again, as anybody can.
func TestNoSealFitsAChangedImage(t *testing.T) {
	t.Parallel()
	sealed := mustEncode(t, newConn(), Options{Seal: testSeal, Key: testKey})
	at := bytes.Index(sealed, digestTag[:])
	decoded := 0
	for off := range sealed {
		if off >= at && off < at+fieldSize {
			continue
		}
		b := slices.Clone(sealed)
		b[off] ^= 1
		copy(b[at+tagSize:], digestOf(b, at))
		i, err := Decode(b)
		if err != nil {
			continue
		}
		decoded++
		if err := i.CheckSeal(testKey); !errors.Is(err, ErrSeal) {
			t.Errorf("byte %d changed: got %v, want ErrSeal", off, err)
		}
	}
	if decoded < len(sealed)/3 {
		t.Errorf("only %d of %d changed images were decoded: the test does not reach the seal", decoded, len(sealed))
	}
}

func TestDecodeKeepsNothingOfTheFile(t *testing.T) {
	t.Parallel()
	c := newConn()
	b := mustEncode(t, c, Options{Seal: testSeal, Key: testKey})
	i, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !reflect.DeepEqual(i.Conn, c) || i.CheckSeal(testKey) != nil {
		t.Error("the connection has changed with the file")
	}
	i.Conn.Recv = append(i.Conn.Recv, "xxxx"...)
	if !bytes.Equal(i.Conn.Send, c.Send) {
		t.Error("appending to one queue has changed the other")
	}
}

// TestMemory: what a file says does not decide what is allocated, only how
// long it is.
func TestMemory(t *testing.T) {
	c := newConn()
	many := forge(t, c, nil, func(x *pb.Extension) {
		x.Options, x.Info.Lost = nil, make([]string, maxExt/2-200)
	})
	options := forge(t, c, nil, func(x *pb.Extension) {
		x.Options = slices.Repeat([]*pb.Option{{}}, maxExt/2-200)
	})
	unknown := frameOf(bytes.Repeat([]byte("\xa2\x01\x00"), maxEntry/3), nil)
	c.Recv = make([]byte, 8<<20)
	c.InqLen = 8 << 20
	for _, test := range []struct {
		name string
		b    []byte
		most int
	}{
		{"8 MiB", mustEncode(t, c, Options{}), 8<<20 + 64<<10},
		{"lies about the queues", frameOf([]byte("\x08\xff\xff\xff\xff\x07\x10\x01\x18\xff\xff\xff\xff\x07\x20\x01\x28\x00\x30\x00\x38\x01"), nil), 64 << 10},
		{"empty notes", many, 4 << 20},
		{"empty options", options, 4 << 20},
		{"unknown fields", unknown, 64 << 10},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = Decode(test.b)
		runtime.ReadMemStats(&after)
		if got := int(after.TotalAlloc - before.TotalAlloc); got > test.most {
			t.Errorf("%s: %d bytes allocated for a file of %d, want at most %d", test.name, got, len(test.b), test.most)
		}
	}
}

func TestEncodeRefusesTooMuchText(t *testing.T) {
	t.Parallel()
	c := newConn()
	c.Info.Lost = []string{strings.Repeat("x", maxExt)}
	if _, err := Encode(c, Options{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
	c.Info.Lost = []string{"\xff"}
	if _, err := Encode(c, Options{}); err == nil {
		t.Error("a text that is none is encoded")
	}
}
