package image

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stackfs/stackfs/soccr"
)

// words are an address as CRIU keeps it.
func words(ip netip.Addr) (w []uint32) {
	for b := ip.AsSlice(); len(b) > 0; b = b[4:] {
		w = append(w, binary.LittleEndian.Uint32(b))
	}
	return w
}

// socketOf makes the inet_sk_entry of a connection.
func socketOf(c *soccr.Conn, inode uint32) *sk_inet.InetSkEntry {
	isk := &sk_inet.InetSkEntry{
		Id: proto.Uint32(inode + 1000), Ino: proto.Uint32(inode),
		Family: proto.Uint32(uint32(c.Family)), Type: proto.Uint32(syscall.SOCK_STREAM), Proto: proto.Uint32(syscall.IPPROTO_TCP),
		State: proto.Uint32(uint32(c.State)), SrcPort: proto.Uint32(uint32(c.Local.Port())), DstPort: proto.Uint32(uint32(c.Remote.Port())),
		SrcAddr: words(c.Local.Addr().WithZone("")), DstAddr: words(c.Remote.Addr().WithZone("")),
		Flags: proto.Uint32(0x8002), Backlog: proto.Uint32(0),
		Fown: &fown.FownEntry{
			Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0),
		},
		Opts: &sk_opts.SkOptsEntry{
			SoSndbuf: proto.Uint32(16384), SoRcvbuf: proto.Uint32(131072),
			SoSndTmoSec: proto.Uint64(1), SoSndTmoUsec: proto.Uint64(500000), SoRcvTmoSec: proto.Uint64(0), SoRcvTmoUsec: proto.Uint64(0),
			Reuseaddr: proto.Bool(true), SoReuseport: proto.Bool(false), SoKeepalive: proto.Bool(true), SoPriority: proto.Uint32(6),
			SoMark: proto.Uint32(7), SoRcvlowat: proto.Uint32(1), SoLinger: proto.Uint32(5), SoBufLock: proto.Uint32(3),
			SoFilter: []uint64{1, 2, 3},
		},
		IpOpts: &sk_inet.IpOptsEntry{Freebind: proto.Bool(true)},
		NsId:   proto.Uint32(9),
	}
	if zone := c.Local.Addr().Zone(); zone != "" {
		isk.Ifname = proto.String(zone)
	}
	if c.Family == syscall.AF_INET6 {
		isk.V6Only = proto.Bool(true)
	}
	if c.Shutdown != 0 {
		isk.Shutdown = sk_opts.SkShutdown(c.Shutdown).Enum()
	}
	var tos, tcp []byte
	tos = protowire.AppendVarint(protowire.AppendTag(tos, fieldTOS, protowire.VarintType), 0xfb)
	tos = protowire.AppendVarint(protowire.AppendTag(tos, fieldTTL, protowire.VarintType), 33)
	isk.IpOpts.ProtoReflect().SetUnknown(tos)
	for num, v := range []uint64{1: 1, 2: 1, 3: 9, 4: 600, 5: 30} {
		if v != 0 {
			tcp = protowire.AppendVarint(protowire.AppendTag(tcp, protowire.Number(num), protowire.VarintType), v)
		}
	}
	isk.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, fieldTCPOpts, protowire.BytesType), tcp))
	return isk
}

// filesImage writes a files.img by go-criu, with files of other kinds.
func filesImage(tb testing.TB, sockets ...*sk_inet.InetSkEntry) []byte {
	tb.Helper()
	img := &crit.CriuImage{Magic: "FILES"}
	add := func(e *fdinfo.FileEntry) {
		img.Entries = append(img.Entries, &crit.CriuEntry{Message: e})
	}
	add(&fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(1), Reg: &regfile.RegFileEntry{
		Id: proto.Uint32(1), Flags: proto.Uint32(0), Pos: proto.Uint64(0), Fown: sockets[0].GetFown(), Name: proto.String("/etc/hosts"),
	}})
	for _, isk := range sockets {
		add(&fdinfo.FileEntry{Type: fdinfo.FdTypes_INETSK.Enum(), Id: isk.Id, Isk: isk})
	}
	path := filepath.Join(tb.TempDir(), "files.img")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := crit.New(nil, f, "", false, false).Encode(img); err != nil {
		tb.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// streamImage is the tcp-stream image that CRIU writes of c.
func streamImage(tb testing.TB, c *soccr.Conn) []byte {
	tb.Helper()
	e := streamEntry(c)
	e.Nodelay, e.Cork = nil, nil
	entry, err := proto.Marshal(e)
	if err != nil {
		tb.Fatal(err)
	}
	return frameOf(entry, append(append([]byte{}, c.Recv...), c.Send...))
}

func writeDump(tb testing.TB, files map[string][]byte) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

func TestReadCRIU(t *testing.T) {
	t.Parallel()
	var sockets []*sk_inet.InetSkEntry
	files := map[string][]byte{"pstree.img": []byte("x"), "tcp-stream-x.img": nil}
	names := []string{"tcp-stream-a0.img", "tcp-stream-a1.img", "tcp-stream-a2.img", "tcp-stream-a3.img"}
	states := []soccr.State{soccr.Established, soccr.FinWait1, soccr.CloseWait, soccr.LastAck}
	var want []*soccr.Conn
	for n, end := range ends {
		c := newConn()
		c.Family, c.Local, c.Remote = end.family, netip.MustParseAddrPort(end.local), netip.MustParseAddrPort(end.remote)
		c.State, c.Shutdown = states[n], uint8(n)
		sockets = append(sockets, socketOf(c, uint32(0xa0+n)))
		files[names[n]] = streamImage(t, c)
		want = append(want, c)
	}
	listener, udp := socketOf(newConn(), 1), socketOf(newConn(), 2)
	listener.State, listener.DstPort = proto.Uint32(uint32(soccr.Listen)), proto.Uint32(0)
	udp.Type, udp.Proto = proto.Uint32(syscall.SOCK_DGRAM), proto.Uint32(syscall.IPPROTO_UDP)
	files["files.img"] = filesImage(t, append(sockets, listener, udp)...)
	dir := writeDump(t, files)
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, name := range names {
		if err := os.Chtimes(filepath.Join(dir, name), when, when); err != nil {
			t.Fatal(err)
		}
	}

	list, err := ReadCRIU(dir)
	if err != nil || len(list) != len(want) {
		t.Fatalf("got %d connections, %v, want %d", len(list), err, len(want))
	}
	for n, d := range list {
		if d.Err != nil {
			t.Errorf("%s: %v", d.File, d.Err)
			continue
		}
		c := want[n]
		c.Options = soccr.Options{
			"SO_SNDBUF": 16384, "SO_RCVBUF": 131072, "SO_SNDTIMEO": 1_500_000, "SO_RCVTIMEO": 0, "SO_REUSEADDR": 1, "SO_REUSEPORT": 0,
			"SO_KEEPALIVE": 1, "SO_PRIORITY": 6, "SO_MARK": 7, "SO_RCVLOWAT": 1, "SO_LINGER": 5, "SO_BUF_LOCK": 3,
			"IP_FREEBIND": 1, "IP_TOS": 0xf8, "IP_TTL": 33,
			"TCP_CORK": 1, "TCP_NODELAY": 1, "TCP_KEEPCNT": 9, "TCP_KEEPIDLE": 600, "TCP_KEEPINTVL": 30,
		}
		if c.Family == syscall.AF_INET6 {
			c.Options["IPV6_V6ONLY"] = 1
		}
		c.Congestion, c.Device = "", ""
		c.Meta = soccr.Meta{Inode: uint64(0xa0 + n), Time: d.Conn.Meta.Time, Method: "criu"}
		c.Info = soccr.Info{Lost: []string{"socket filter of 3 instructions"}}
		if !reflect.DeepEqual(d.Conn, c) {
			t.Errorf("%s:\n got %+v\nwant %+v", d.File, d.Conn, c)
		}
		if !d.Conn.Meta.Time.Equal(when) || d.File != names[n] || d.Inode != uint32(0xa0+n) || d.NetNS != 9 || d.Local != c.Local || d.Remote != c.Remote {
			t.Errorf("got %+v", d)
		}
		for name := range c.Options {
			if _, known := optionKinds()[name]; !known {
				t.Errorf("soccr has no option %s", name)
			}
		}
		b := mustEncode(t, d.Conn, Options{})
		if i, err := Decode(b); err != nil || !reflect.DeepEqual(i.Conn.Options, c.Options) {
			t.Errorf("%s as an image of ours: %v", d.File, err)
		}
	}

	if d, err := Select(list, netip.AddrPort{}, netip.MustParseAddrPort("[2001:db8::2]:0")); err != nil || d != &list[1] {
		t.Errorf("by the peer: got %+v, %v", d, err)
	}
	if d, err := Select(list, netip.MustParseAddrPort("[fe80::1]:80"), netip.AddrPort{}); err != nil || d != &list[3] {
		t.Errorf("without the interface: got %+v, %v", d, err)
	}
	if _, err := Select(list, netip.MustParseAddrPort("192.0.2.1:80"), netip.AddrPort{}); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "2 connections of the dump fit: 192.0.2.1:80-192.0.2.2:4711, [::ffff:192.0.2.1]:80-") {
		t.Errorf("IPv4 and v4-mapped: got %v, want ErrAmbiguous", err)
	}
	if _, err := Select(list, netip.MustParseAddrPort("192.0.2.9:80"), netip.AddrPort{}); !errors.Is(err, ErrNoMatch) || !strings.Contains(err.Error(), "no such connection, but 192.0.2.1:80-") {
		t.Errorf("another address: got %v, want ErrNoMatch", err)
	}
	if _, err := Select(nil, netip.AddrPort{}, netip.AddrPort{}); !errors.Is(err, ErrNoMatch) {
		t.Errorf("an empty dump: got %v, want ErrNoMatch", err)
	}
}

func TestDumpOfOldCRIU(t *testing.T) {
	t.Parallel()
	c := newConn()
	isk := socketOf(c, 5)
	isk.ProtoReflect().SetUnknown(nil)
	isk.IpOpts.ProtoReflect().SetUnknown(nil)
	isk.Opts.TcpKeepidle = proto.Uint32(77)
	isk.SrcAddr = append(isk.SrcAddr, 0, 0, 0)
	e := golden(t)["criu.img"] // with TCP_NODELAY in it
	list, err := ReadCRIU(writeDump(t, map[string][]byte{"files.img": filesImage(t, isk), "tcp-stream-5.img": e}))
	if err != nil || len(list) != 1 || list[0].Err != nil {
		t.Fatalf("got %+v, %v", list, err)
	}
	o := list[0].Conn.Options
	if _, tos := o["IP_TOS"]; o["TCP_NODELAY"] != 1 || o["TCP_KEEPIDLE"] != 77 || tos || list[0].Conn.Local != c.Local {
		t.Errorf("got %v", list[0].Conn)
	}
}

func TestDumpsWithMistakes(t *testing.T) {
	t.Parallel()
	c := newConn()
	good := filesImage(t, socketOf(c, 5))
	stream := streamImage(t, c)
	with := func(change func(isk *sk_inet.InetSkEntry)) []byte {
		isk := socketOf(c, 5)
		change(isk)
		return filesImage(t, isk)
	}
	for _, test := range []struct {
		name          string
		files, stream []byte
		whole         bool // the dump as a whole is refused
		want          string
	}{
		{"another file", stream, stream, true, "files.img: byte 0: no CRIU image of the kind FILES"},
		{"empty", []byte{}, stream, true, "no CRIU image of the kind FILES"},
		{"cut off in an entry", good[:len(good)-1], stream, true, "cut off?"},
		{"cut off in a length", append(append([]byte{}, good...), 1, 2), stream, true, "within the length of an entry"},
		{"huge entry", append(append([]byte{}, good...), 0xff, 0xff, 0xff, 0xff), stream, true, "an entry of 4294967295 bytes"},
		{"no entry", append(append([]byte{}, good...), 1, 0, 0, 0, 0xff), stream, true, "no file_entry"},
		{"no stream", good, nil, false, "--tcp-close"},
		{"damaged stream", good, stream[:len(stream)-1], false, "tcp-stream-5.img: byte"},
		{"no address", with(func(isk *sk_inet.InetSkEntry) { isk.SrcAddr = nil }), stream, false, "an address of 0 words in the family 2"},
		{"port", with(func(isk *sk_inet.InetSkEntry) { isk.DstPort = proto.Uint32(70000) }), stream, false, "port 70000"},
		{"another family", with(func(isk *sk_inet.InetSkEntry) { isk.Family = proto.Uint32(16) }), stream, false, "in the family 16"},
		{"listener", with(func(isk *sk_inet.InetSkEntry) { isk.State = proto.Uint32(10) }), stream, false, "state listen"},
		{"state", with(func(isk *sk_inet.InetSkEntry) { isk.State = proto.Uint32(1 << 20) }), stream, false, "state state-255"},
		{"time-out", with(func(isk *sk_inet.InetSkEntry) { isk.Opts.SoRcvTmoSec = proto.Uint64(1 << 63) }), stream, false, "SO_RCVTIMEO"},
		{"image of ours, another address", good, mustEncode(t, func() *soccr.Conn {
			c := newConn()
			c.Remote = netip.MustParseAddrPort("192.0.2.3:4711")
			return c
		}(), Options{}), false, "files.img has 192.0.2.1:80-192.0.2.2:4711 for the inode 5, the image has 192.0.2.1:80-192.0.2.3:4711"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			files := map[string][]byte{"files.img": test.files}
			if test.stream != nil {
				files["tcp-stream-5.img"] = test.stream
			}
			list, err := ReadCRIU(writeDump(t, files))
			if !test.whole {
				if err != nil || len(list) != 1 || list[0].Conn != nil || list[0].Err == nil {
					t.Fatalf("got %+v, %v, want one connection with an error", list, err)
				}
				if _, serr := Select(list, netip.AddrPort{}, netip.AddrPort{}); list[0].Local.IsValid() && serr != list[0].Err {
					t.Errorf("Select: got %v, want its error", serr)
				}
				err = list[0].Err
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}

	dir := writeDump(t, map[string][]byte{"files.img": good, "tcp-stream-5.img": stream, "tcp-stream-ff.img": stream})
	list, err := ReadCRIU(dir)
	if err != nil || len(list) != 2 || list[0].Err != nil || list[1].File != "tcp-stream-ff.img" || list[1].Err == nil {
		t.Errorf("a stream without a socket: got %+v, %v", list, err)
	}
	if _, err := ReadCRIU(t.TempDir()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "no dump of CRIU: it has no files.img") {
		t.Errorf("no dump: got %v", err)
	}
	if _, err := ReadCRIU("/nowhere"); !errors.Is(err, os.ErrNotExist) || err.Error() != "stat /nowhere: no such file or directory" {
		t.Errorf("no directory: got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "tcp-stream-5.img")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "tcp-stream-5.img"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := ReadCRIU(dir); err != nil || list[0].Err == nil || !strings.Contains(list[0].Err.Error(), "no regular file") {
		t.Errorf("a FIFO: got %+v, %v", list, err)
	}
}

// TestOurImageInADump is what one does to have criu restore a connection
// that we saved.
func TestOurImageInADump(t *testing.T) {
	t.Parallel()
	c := newConn()
	files := map[string][]byte{"files.img": filesImage(t, socketOf(c, 5)), "tcp-stream-5.img": streamImage(t, c)}
	dir := writeDump(t, files)
	list, err := ReadCRIU(dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %+v, %v", list, err)
	}
	later := newConn()
	later.Recv, later.InqLen, later.InqSeq = nil, 0, later.InqSeq+10
	if err := list[0].Accepts(later); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, list[0].File), mustEncode(t, later, Options{}), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err = ReadCRIU(dir); err != nil || list[0].Err != nil || list[0].Conn.InqSeq != later.InqSeq || list[0].Conn.Congestion != "bbr" {
		t.Errorf("got %+v, %v, want our image", list, err)
	}
	for _, test := range []struct {
		want   string
		change func(c *soccr.Conn)
	}{
		{"the image has 192.0.2.1:81-", func(c *soccr.Conn) { c.Local = netip.MustParseAddrPort("192.0.2.1:81") }},
		{"the state established for the inode 5, the image has close-wait", func(c *soccr.Conn) { c.State = soccr.CloseWait }},
		{"shutdown 2 for the inode 5, the image has 0", func(c *soccr.Conn) { c.Shutdown = 0 }},
		{"address family 2 ", func(c *soccr.Conn) { c.Family = syscall.AF_INET6 }},
	} {
		c := newConn()
		test.change(c)
		if err := list[0].Accepts(c); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}

// TestDumpOfCRIU reads what criu 3.17.1 wrote on Linux 6.1: a client that has
// sent 12000 bytes of a pattern, which the server does not read, and is slow
// to read the numbered lines of the server.
func TestDumpOfCRIU(t *testing.T) {
	t.Parallel()
	list, err := ReadCRIU("testdata/criu-3.17")
	if err != nil || len(list) != 1 || list[0].Err != nil {
		t.Fatalf("got %+v, %v", list, err)
	}
	c := list[0].Conn
	if c.Local != netip.MustParseAddrPort("127.0.0.1:56170") || c.Remote != netip.MustParseAddrPort("127.0.0.1:5000") || c.State != soccr.Established {
		t.Errorf("got %s-%s %s", c.Local, c.Remote, c.State)
	}
	if !strings.HasPrefix(string(c.Recv), "000021\n000022\n") || len(c.Recv) != 22*7 {
		t.Errorf("got %q in the receive queue", c.Recv)
	}
	for i, b := range c.Send {
		if at := 12000 - len(c.Send) + i; b != byte(at*7+at/256) {
			t.Fatalf("byte %d of the send queue: got %d", i, b)
		}
	}
	if c.UnsqLen != 7904 || c.OutqLen != 7904 || !c.HasWindow || c.SndWnd != 0 || c.OptMask&soccr.OptTimestamps == 0 || c.Timestamp == 0 {
		t.Errorf("got %+v", c.Data)
	}
	for name, want := range map[string]int64{"TCP_NODELAY": 1, "TCP_KEEPCNT": 3, "SO_KEEPALIVE": 1, "SO_LINGER": -1, "SO_RCVBUF": 131072} {
		if c.Options[name] != want {
			t.Errorf("%s: got %d, want %d", name, c.Options[name], want)
		}
	}
	if _, err := Decode(mustEncode(t, c, Options{})); err != nil {
		t.Error(err)
	}
}
