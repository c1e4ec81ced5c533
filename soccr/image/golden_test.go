package image

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write the files of testdata anew")

// golden are the images of testdata, which every later version has to read:
// a change here is a break of the format.
func golden(tb testing.TB) map[string][]byte {
	tb.Helper()
	entry, err := proto.Marshal(streamEntry(newConn()))
	if err != nil {
		tb.Fatal(err)
	}
	return map[string][]byte{
		"format1.img": mustEncode(tb, newConn(), Options{}),
		"sealed1.img": mustEncode(tb, newConn(), Options{Seal: testSeal, Key: testKey}),
		"criu.img":    frameOf(entry, append([]byte("unread"), "in flightnot sent"...)),
	}
}

func TestGoldenImages(t *testing.T) {
	t.Parallel()
	if *update {
		if err := os.WriteFile("testdata/files.img", filesImage(t, socketOf(newConn(), 5)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range golden(t) {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: Encode writes another file of %d bytes, want %d", name, len(want), len(got))
		}
		i, err := Decode(got)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := newConn()
		switch name {
		case "criu.img":
			if !i.Foreign || i.Seal != nil || !bytes.Equal(i.Conn.Recv, c.Recv) || !bytes.Equal(i.Conn.Send, c.Send) ||
				i.Conn.Options["TCP_NODELAY"] != 1 || len(i.Conn.Options) != 1 || i.Conn.Family != 0 {
				t.Errorf("%s: got %+v", name, i.Conn)
			}
			c.State = 0 // is in files.img
			if i.Conn.Data != c.Data {
				t.Errorf("%s: got %+v, want %+v", name, i.Conn.Data, c.Data)
			}
		case "sealed1.img":
			if err := i.CheckSeal(testKey); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			fallthrough
		default:
			if i.Foreign || !reflect.DeepEqual(i.Conn, c) {
				t.Errorf("%s: got %+v, want %+v", name, i.Conn, c)
			}
		}
	}
}
