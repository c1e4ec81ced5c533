package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stackfs/stackfs/soccr"
)

// Whatever the program left in a slot and in the arena: a connection comes
// of it that is in itself consistent, or an error.
func FuzzSlot(f *testing.F) {
	var o bpfSlot
	o.Status, o.State, o.Family = bpfStatusTAKEN, uint8(soccr.Established), 2
	o.RecvLen, o.SendLen, o.WriteSeq, o.SndNxt = 10, 20, 7, 3
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, &o); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), uint32(100), uint32(7))
	f.Add(b.Bytes(), uint32(5), uint32(1<<32-1))
	f.Add(bytes.Repeat([]byte{0xff}, b.Len()), uint32(1<<20), uint32(1<<20))
	e := &engine{facts: &facts{known: soccr.OptionNames(), hz: 250}}
	a := &arena{mem: make([]byte, 2*blockSize)}
	f.Fuzz(func(t *testing.T, raw []byte, used0, used1 uint32) {
		var o bpfSlot
		if err := binary.Read(bytes.NewReader(append(raw, make([]byte, binary.Size(&o))...)), binary.NativeEndian, &o); err != nil {
			t.Fatal(err)
		}
		binary.NativeEndian.PutUint32(a.mem, used0)
		binary.NativeEndian.PutUint32(a.mem[blockSize:], used1)
		r := &shared{}
		e.arena = a
		e.fill(r, &o, o.Cookie, map[int32]string{1: "lo"})
		if (r.Err == nil) != (r.Conn != nil) {
			t.Fatalf("connection %v, error %v", r.Conn, r.Err)
		}
		if c := r.Conn; c != nil {
			if !c.State.Saveable() || len(c.Recv) != int(c.InqLen) || len(c.Send) != int(c.OutqLen) || c.UnsqLen > c.OutqLen {
				t.Errorf("%v: %d bytes of %d, %d of %d, %d unsent", c.State, len(c.Recv), c.InqLen, len(c.Send), c.OutqLen, c.UnsqLen)
			}
			return
		}
		var why *soccr.UnsaveableError
		if !errors.Is(r.Err, ErrQueue) && !errors.Is(r.Err, soccr.ErrNotFound) && !errors.Is(r.Err, soccr.ErrEnded) && !errors.As(r.Err, &why) {
			t.Errorf("unexpected error %v", r.Err)
		}
	})
}
