package image

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
)

// openTemp makes a file with content.
func openTemp(t *testing.T, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.img")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestGoCRIUReadsAndWritesTheSameBytes(t *testing.T) {
	t.Parallel()
	for name, b := range golden(t) {
		out := openTemp(t, nil)
		c := crit.New(openTemp(t, b), out, "", false, false)
		img, err := c.Decode(&tcp_stream.TcpStreamEntry{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if img.Magic != "TCP_STREAM" || len(img.Entries) != 1 {
			t.Fatalf("%s: got %s with %d entries, want TCP_STREAM with 1", name, img.Magic, len(img.Entries))
		}
		e := img.Entries[0].Message.(*tcp_stream.TcpStreamEntry)
		if e.GetInqLen() != 6 || e.GetOutqLen() != 17 || e.GetUnsqLen() != 8 || !e.GetNodelay() || e.GetCork() {
			t.Errorf("%s: got %v", name, e)
		}
		var queues struct {
			In  []byte `json:"in_q"`
			Out []byte `json:"out_q"`
		}
		if err := json.Unmarshal([]byte(img.Entries[0].Extra), &queues); err != nil || string(queues.In) != "unread" || string(queues.Out) != "in flightnot sent" {
			t.Errorf("%s: got the queues %q, %q, %v", name, queues.In, queues.Out, err)
		}
		if err := c.Encode(img); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: written anew it has %d bytes, want the same %d (%v)", name, len(got), len(b), err)
		}
	}
}

// TestCritOfCRIU runs the crit that comes with CRIU.
func TestCritOfCRIU(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("crit")
	if err != nil {
		if os.Getenv("STACKFS_STRICT") == "1" {
			t.Fatal(err)
		}
		t.Skip("crit is not installed (Debian package criu)")
	}
	f := openTemp(t, mustEncode(t, newConn(), Options{Seal: testSeal, Key: testKey}))
	out, err := exec.CommandContext(t.Context(), path, "decode", "-i", f.Name(), "--pretty").CombinedOutput()
	if err != nil {
		t.Fatalf("crit decode: %v\n%s", err, out)
	}
	var img struct {
		Magic   string
		Entries []struct {
			InqSeq  uint32 `json:"inq_seq"`
			OptMask string `json:"opt_mask"`
			UnsqLen uint32 `json:"unsq_len"`
			Extra   struct{ Inq, Outq string }
		}
	}
	if err := json.Unmarshal(out, &img); err != nil || img.Magic != "TCP_STREAM" || len(img.Entries) != 1 {
		t.Fatalf("got %s (%v)", out, err)
	}
	e := img.Entries[0]
	recv, err := base64.StdEncoding.DecodeString(strings.TrimSpace(e.Extra.Inq))
	if err != nil || string(recv) != "unread" || e.InqSeq != 0xfffffff0 || e.OptMask != "0x7" || e.UnsqLen != 8 {
		t.Errorf("got %+v, %q, %v", e, recv, err)
	}
}
