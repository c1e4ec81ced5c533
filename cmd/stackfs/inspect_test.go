package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
)

const testBootID = "00010203-0405-0607-0809-0a0b0c0d0e0f"

// savedConn is a connection that inspect has something to say about.
func savedConn() *soccr.Conn {
	recv, send := []byte("GET /\x1b[31m"), []byte(strings.Repeat("s", 300))
	return &soccr.Conn{
		Data: soccr.Data{
			State: soccr.CloseWait, InqLen: uint32(len(recv)), InqSeq: 4294967295, OutqLen: uint32(len(send)), OutqSeq: 1000, UnsqLen: 100,
			OptMask: soccr.OptSACK | soccr.OptWscale, MSSClamp: 1460, SndWscale: 7, RcvWscale: 9,
			HasWindow: true, SndWnd: 64000, MaxWindow: 65000, RcvWnd: 60000,
		},
		Family: syscall.AF_INET6,
		Local:  netip.MustParseAddrPort("[fe80::1%e\x1b]:80"), Remote: netip.MustParseAddrPort("[fe80::2%e\x1b]:4711"),
		Recv: recv, Send: send, Shutdown: 2,
		Options: soccr.Options{
			"TCP_NODELAY": 1, "TCP_KEEPIDLE": 7200, "TCP_KEEPCNT": 3, "SO_LINGER": 5, "SO_RCVBUF": 131072, "SO_SNDBUF": 9216, "SO_BUF_LOCK": 1,
			"SO_RCVTIMEO": 1_500_000, "SO_PEEK_OFF": -1,
		},
		Congestion: "cubic",
		Meta: soccr.Meta{
			Cookie: 4097, Inode: 12345, UID: 4000000000, Time: time.Date(2026, 11, 25, 1, 2, 3, 0, time.UTC), Live: true,
			Method: "bpf", NetNS: 18446744073709551615, Stack: "lab", Version: "0.1.0",
		},
		Info: soccr.Info{SndCwnd: 10, RTT: 1500 * time.Microsecond, Lost: []string{"socket filter"}},
	}
}

func saveImage(t testing.TB, name string, c *soccr.Conn, opts image.Options) string {
	t.Helper()
	b, err := image.Encode(c, opts)
	if err != nil {
		t.Fatal(err)
	}
	return saveText(t, name, string(b))
}

func saveText(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func labSeal() image.Options {
	s := &image.Seal{UID: 4000000001, NetNS: 7, Stack: "lab"}
	for i := range s.BootID {
		s.BootID[i] = byte(i)
	}
	s.Nonce[15] = 0xff
	return image.Options{Seal: s, Key: make([]byte, image.KeySize)}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.proc = t.TempDir()
	path := saveImage(t, "conn.img", savedConn(), labSeal())
	c.expect(exitOK, path+"\n", "stackfs", "inspect", path)
	out := c.stdout.String()
	for _, want := range []string{
		"  image:       of stackfs, format 1, ",
		"  saved:       " + savedConn().Meta.Time.Local().Format(time.DateTime+" MST") + " by stackfs 0.1.0 (bpf)\n",
		"  from:        stack lab, connection 4097 of user 4000000000, inode 12345\n",
		"  live:        yes, the connection went on: the image is stale as soon as a byte moves\n",
		"  seal:        for user 4000000001, of stack lab, made in another boot",
		"  state:       close-wait\n  shutdown:    writing\n",
		"  local:       [fe80::1%e?]:80\n  remote:      [fe80::2%e?]:4711\n",
		"  received:    10 bytes not read by its owner\n",
		"  to send:     300 bytes not acknowledged by the peer: 200 were sent, 100 were not\n",
		"  sequence:    next from the peer 4294967295, next of ours 1000\n",
		"  negotiated:  segments of 1460 bytes, window scale 7 of the peer and 9 of ours, SACK\n",
		"  window:      of the peer 64000 bytes, at most 65000; ours 60000 bytes\n",
		"  congestion:  cubic\n",
		"  options:     SO_LINGER 5 seconds\n               SO_RCVTIMEO 1.5s\n               TCP_NODELAY 1\n               TCP_KEEPCNT 3\n" +
			"               SO_SNDBUF 9216\n               SO_BUF_LOCK 1\n",
		"  lost:        socket filter\n               a congestion window of 10 segments and a round trip of 1.5ms, found out anew\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%s\nwant it to contain %q", out, want)
		}
	}
	if strings.Contains(out, "\x1b") || strings.Contains(out, "|GET") {
		t.Errorf("got\n%s\nwant neither escapes nor the bytes of a queue", out)
	}

	c.expect(exitOK, "TCP_KEEPIDLE 7200\n", "stackfs", "inspect", "--all", path)
	c.expect(exitOK, "SO_RCVBUF 131072\n", "stackfs", "inspect", "-a", path)
	boot := filepath.Join(c.proc, "sys/kernel/random")
	if err := os.MkdirAll(boot, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(boot, "boot_id"), []byte(testBootID+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.expect(exitOK, "of stack lab, made in this boot; the daemon can tell", "stackfs", "inspect", path)

	final := savedConn()
	final.Meta.Live = false
	text, err := os.ReadFile(saveImage(t, "final.img", final, image.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	c.stdin = strings.NewReader(string(text))
	c.expect(exitOK, "standard input\n", "stackfs", "inspect", "-")
	if out := c.stdout.String(); !strings.Contains(out, "no, the connection ended when it was saved") || !strings.Contains(out, "none: CAP_NET_ADMIN") {
		t.Errorf("got\n%s", out)
	}
}

func TestInspectHexdump(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	path := saveImage(t, "conn.img", savedConn(), image.Options{})
	c.expect(exitOK, "  received, all 10 bytes:\n  00000000  47 45 54 20 2f 1b 5b 33  31 6d                    |GET /.[31m|\n", "stackfs", "inspect", "--hexdump", path)
	if out := c.stdout.String(); !strings.Contains(out, "  to send, the first 256 of 300 bytes:\n  00000000  73 ") || strings.Contains(out, "00000100") {
		t.Errorf("got\n%s", out)
	}
	c.expect(exitOK, "  to send, the first 3 of 300 bytes:\n  00000000  73 73 73 ", "stackfs", "inspect", "--hexdump=3", path)
	c.expect(exitOK, "  to send, all 300 bytes:\n", "stackfs", "inspect", "--hexdump=all", path)
	for _, bad := range []string{"x", "0", "-1", ""} {
		c.expect(exitUsage, "is neither a number of bytes nor all", "stackfs", "inspect", "--hexdump="+bad, path)
	}
}

func TestInspectJSON(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	path := saveImage(t, "conn.img", savedConn(), labSeal())
	object := func(args ...string) map[string]any {
		t.Helper()
		c.expect(exitOK, `"netns_cookie": 18446744073709551615`, append([]string{"stackfs", "inspect", "--json"}, args...)...)
		var list []map[string]any
		if err := json.Unmarshal(c.stdout.Bytes(), &list); err != nil || len(list) != 1 {
			t.Fatalf("got %v, %v, want one object", list, err)
		}
		return list[0]
	}
	o := object(path)
	for key, want := range map[string]string{
		"file": path, "format": "1", "state": "close-wait", "family": "inet6", "local": "[fe80::1%e\x1b]:80", "shutdown": "[writing]",
		"receive": "map[bytes:10 next:4.294967295e+09]", "send": "map[bytes:300 next:1000 unsent:100]", "congestion": "cubic", "lost": "[socket filter]",
		"window": "map[max_window:65000 rcv_wnd:60000 rcv_wup:0 snd_wl1:0 snd_wnd:64000]",
		"info":   "map[retransmits:0 rtt_us:1500 rttvar_us:0 snd_cwnd:10 snd_ssthresh:0]",
		"seal":   "map[boot_id:" + testBootID + " netns_cookie:7 nonce:000000000000000000000000000000ff stack:lab uid:4.000000001e+09]",
		"saved": "map[cookie:4097 inode:12345 live:true method:bpf netns_cookie:1.8446744073709552e+19 stack:lab time:2026-11-25T01:02:03Z " +
			"uid:4e+09 version:0.1.0]",
		"negotiated": "map[ecn:false mask:6 mss:1460 rcv_wscale:9 sack:true snd_wscale:7 timestamp:0 timestamps:false]",
	} {
		if got := fmt.Sprint(o[key]); got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
	}
	if got := len(o["options"].(map[string]any)); got != 9 {
		t.Errorf("got %d options, want all 9", got)
	}
	if got := fmt.Sprint(object("--hexdump=5", path)["receive"]); got != "map[bytes:10 data:R0VUIC8= next:4.294967295e+09]" {
		t.Errorf("with bytes: got %s", got)
	}
}

func TestInspectOfCRIU(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := filepath.Join("..", "..", "soccr", "image", "testdata")
	c.expect(exitOK, "image:       of CRIU, 88 bytes; addresses, state and options are in other files of the dump: inspect its directory\n",
		"stackfs", "inspect", filepath.Join(dir, "criu.img"))
	if out := c.stdout.String(); !strings.Contains(out, "TCP_NODELAY 1") || strings.Contains(out, "state:") || strings.Contains(out, "live:") {
		t.Errorf("got\n%s", out)
	}

	dump := t.TempDir()
	for from, to := range map[string]string{"files.img": "files.img", "criu.img": "tcp-stream-5.img"} {
		b, err := os.ReadFile(filepath.Join(dir, from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dump, to), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.expect(exitOK, dump+"/tcp-stream-5.img\n  image:       of a dump of CRIU\n", "stackfs", "inspect", dump)
	if out := c.stdout.String(); !strings.Contains(out, "remote:      192.0.2.2:4711\n") || !strings.Contains(out, "lost:        socket filter of 3 instructions\n") {
		t.Errorf("got\n%s", out)
	}
	if err := os.WriteFile(filepath.Join(dump, "tcp-stream-6.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.expect(exitFailed, dump+"/tcp-stream-6.img: files.img has no socket with the inode 6", "stackfs", "inspect", "--json", dump)
	var list []map[string]any
	if err := json.Unmarshal(c.stdout.Bytes(), &list); err != nil || len(list) != 2 || list[0]["family"] != "inet" || list[1]["error"] == nil {
		t.Errorf("got %s, want a connection and an error", &c.stdout)
	}
}

func TestInspectMistakes(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	good := saveImage(t, "good.img", savedConn(), image.Options{})
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-1] ^= 1
	bad := saveText(t, "bad.img", string(text))
	other := saveText(t, "x.txt", "this is something else\n")
	empty := t.TempDir()
	c.expect(exitUsage, "FILE is missing", "stackfs", "inspect")
	c.expect(exitOK, ":0\n", "stackfs", "__complete", "inspect", "x")
	c.expect(exitNotFound, "/nowhere: no such file or directory", "stackfs", "inspect", "/nowhere")
	c.expect(exitFailed, other+": byte 0: no CRIU image", "stackfs", "inspect", other)
	c.expect(exitNotFound, empty+": no dump of CRIU", "stackfs", "inspect", empty)
	c.expect(exitNotFound, "given one by one: "+empty+"/*.img", "stackfs", "inspect", empty+"/")
	c.expect(exitFailed, bad+": the digest does not match: the file was changed after it had been written (copy the file or save the connection again)", "stackfs", "inspect", bad, good)
	if out := c.stdout.String(); !strings.HasPrefix(out, good+"\n") {
		t.Errorf("got %q, want the good image", out)
	}
}

// TestInspectConnectionOfAMount reads the file checkpoint of a connection.
func TestInspectConnectionOfAMount(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	dir := c.mount()
	conn := filepath.Join(dir, "lab", nameConns, "4097")
	if err := os.MkdirAll(conn, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := image.Encode(savedConn(), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conn, "checkpoint"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.expect(exitOK, "state:       close-wait", "stackfs", "inspect", conn)
	c.expect(exitOK, "state:       close-wait", "stackfs", "inspect", conn+"/checkpoint")
	c.expect(exitNotFound, "conn 4098: no such connection", "stackfs", "inspect", filepath.Join(dir, "lab", nameConns, "4098"))
}

func TestInspectReadsNoEndlessFile(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	endless := saveText(t, "endless.img", "")
	if err := os.Truncate(endless, maxInspect+1); err != nil { // a hole, which takes no room
		t.Fatal(err)
	}
	c.expect(exitFailed, endless+": is larger than 256 MiB, which no image is", "stackfs", "inspect", endless)
}
