package fstests

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"github.com/stackfs/stackfs/soccr/image"
)

// The streams of an exchange; see testdata/conns/c/exchange.h.
const (
	streamPeriod     = 262139
	streamFromClient = 0x9e3779b9
	streamFromServer = 0x7f4a7c15
)

// streamTable returns the first bytes of a stream, twice a period.
func streamTable(seed uint32) []byte {
	b := make([]byte, 0, 2*streamPeriod+4)
	for x := seed; len(b) < streamPeriod; {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return append(b[:streamPeriod], b[:streamPeriod]...)
}

var streamTables = sync.OnceValue(func() map[uint32][]byte {
	return map[uint32][]byte{streamFromClient: streamTable(streamFromClient), streamFromServer: streamTable(streamFromServer)}
})

// A streamPlace follows a queue along its stream.
type streamPlace struct {
	table []byte
	first uint32 // sequence number of the byte at offset 0
	end   uint64 // offset of the end of the queue when it was last looked at
}

// check compares the bytes of a queue that ends before the sequence number
// end with the stream, at their offset. Queues only move forward, and by
// less than 2 GiB from one look to the next.
func (p *streamPlace) check(queue []byte, end uint32) error {
	moved := end - p.first - uint32(p.end)
	if int32(moved) < 0 {
		return fmt.Errorf("the queue moved back by %d bytes", -int32(moved))
	}
	p.end += uint64(moved)
	if uint64(len(queue)) > p.end {
		return fmt.Errorf("%d bytes in the queue, of %d that there ever were", len(queue), p.end)
	}
	for from, rest := p.end-uint64(len(queue)), queue; len(rest) > 0; {
		n := min(len(rest), streamPeriod)
		want := p.table[from%streamPeriod:][:n]
		if !bytes.Equal(rest[:n], want) {
			for i := range n {
				if rest[i] != want[i] {
					return fmt.Errorf("byte %d of %d in the queue is %#x, want %#x (offset %d of the stream)", len(queue)-len(rest)+i, len(queue), rest[i], want[i], from+uint64(i))
				}
			}
		}
		from, rest = from+uint64(n), rest[n:]
	}
	return nil
}

// An imageWatch checks the images of one side of an exchange.
type imageWatch struct {
	method     string
	recv, send streamPlace
	images     int
	full       [2]int // how many had bytes in their receive and send queues
}

// watchImages begins with the image of a connection on which nothing has
// been sent yet.
func watchImages(t testing.TB, first []byte, server bool, method string) *imageWatch {
	t.Helper()
	img, err := image.Decode(first)
	if err != nil {
		t.Fatal(err)
	}
	if n, m := len(img.Conn.Recv), len(img.Conn.Send); n+m > 0 {
		t.Fatalf("an unused connection has %d and %d bytes in its queues", n, m)
	}
	in, out := streamTables()[streamFromServer], streamTables()[streamFromClient]
	if server {
		in, out = out, in
	}
	return &imageWatch{
		method: method,
		recv:   streamPlace{table: in, first: img.Conn.InqSeq},
		send:   streamPlace{table: out, first: img.Conn.OutqSeq},
	}
}

// check decodes an image and looks at its queues.
func (w *imageWatch) check(b []byte) error {
	img, err := image.Decode(b)
	if err != nil {
		return err
	}
	c := img.Conn
	switch {
	case c.Meta.Method != w.method:
		return fmt.Errorf("method %q, want %q", c.Meta.Method, w.method)
	case !c.Meta.Live:
		return fmt.Errorf("the image of a connection that goes on is not marked as live")
	case int(c.InqLen) != len(c.Recv), int(c.OutqLen) != len(c.Send), c.UnsqLen > c.OutqLen:
		return fmt.Errorf("lengths %d, %d and %d, but %d and %d bytes", c.InqLen, c.OutqLen, c.UnsqLen, len(c.Recv), len(c.Send))
	}
	if err := w.recv.check(c.Recv, c.InqSeq); err != nil {
		return fmt.Errorf("receive queue: %w", err)
	}
	if err := w.send.check(c.Send, c.OutqSeq); err != nil {
		return fmt.Errorf("send queue: %w", err)
	}
	w.images++
	for i, q := range [][]byte{c.Recv, c.Send} {
		if len(q) > 0 {
			w.full[i]++
		}
	}
	return nil
}
