package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

// FuzzDecode checks that no file makes the decoder panic, that what it
// refuses it refuses with an error of this package, and that what it accepts
// is a connection that can be encoded again.
func FuzzDecode(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.img")
	if err != nil || len(seeds) < 3 {
		f.Fatalf("the seeds are missing: %q, %v", seeds, err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeAnything(t, b)
		// The digest keeps the fuzzer away from what is behind it.
		if fixed, ok := withDigest(b); ok {
			decodeAnything(t, fixed)
		}
	})
}

func decodeAnything(t *testing.T, b []byte) {
	i, err := Decode(b)
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrInvalid) {
			t.Fatalf("an error of another kind: %v", err)
		}
		return
	}
	if n := len(i.Conn.Recv) + len(i.Conn.Send); n > len(b) || i.Size != len(b) {
		t.Fatalf("%d bytes in the queues of an image of %d", n, len(b))
	}
	_ = i.CheckSeal(testKey)
	if i.Foreign {
		return
	}
	again, err := Encode(i.Conn, Options{})
	if err != nil {
		t.Fatalf("decoded, but not encoded again: %v", err)
	}
	if _, err := Decode(again); err != nil {
		t.Fatalf("encoded, but not decoded: %v", err)
	}
}

// withDigest puts the right digest into a file that has the place for one.
func withDigest(b []byte) ([]byte, bool) {
	entry, err := frame(b)
	if err != nil {
		return nil, false
	}
	p, err := split(entry)
	if err != nil || p.ext == nil {
		return nil, false
	}
	b = append([]byte(nil), b...)
	at := headerSize + p.digest
	copy(b[at+tagSize:], digestOf(b, at))
	return b, true
}

// FuzzReadCRIU does the same for the two files that a connection of a dump
// comes from.
func FuzzReadCRIU(f *testing.F) {
	stream, err := os.ReadFile("testdata/criu.img")
	if err != nil {
		f.Fatal(err)
	}
	files, err := os.ReadFile("testdata/files.img")
	if err != nil {
		f.Fatal(err)
	}
	ours, err := os.ReadFile("testdata/format1.img")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(files, stream)
	f.Add(files, ours)
	for _, name := range []string{"files.img", "tcp-stream-1257.img"} {
		b, err := os.ReadFile("testdata/criu-3.17/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, stream)
		f.Add(files, b)
	}
	f.Fuzz(func(t *testing.T, files, stream []byte) {
		list, err := readDump(fstest.MapFS{"files.img": {Data: files}, "tcp-stream-5.img": {Data: stream}})
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrInvalid) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		for _, d := range list {
			switch {
			case (d.Err == nil) == (d.Conn == nil):
				t.Fatalf("got the connection %v and the error %v", d.Conn, d.Err)
			case d.Err == nil:
				if err := Validate(d.Conn); err != nil {
					t.Fatal(err)
				}
			case !errors.Is(d.Err, ErrDamaged) && !errors.Is(d.Err, ErrInvalid) && !errors.Is(d.Err, ErrVersion) && !errors.Is(d.Err, fs.ErrNotExist):
				t.Fatalf("an error of another kind: %v", d.Err)
			}
		}
	})
}
