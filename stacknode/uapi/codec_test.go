package uapi

import (
	"bytes"
	"encoding"
	"errors"
	"reflect"
	"syscall"
	"testing"
	"unsafe"
)

// A request is what a structure that callers send can do.
type request interface {
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

// A reply is what a structure that the daemon sends can do.
type reply interface {
	encoding.BinaryMarshaler
	UnmarshalReply(b []byte) error
}

// requests are filled so that no two fields have the same value; strict are
// the bytes of a field in which only zero is allowed.
var requests = []struct {
	name   string
	value  request
	empty  func() request
	memory []byte
	strict [][2]int
}{
	{"Version", version, func() request { return new(Version) }, memory(version), [][2]int{{16, 32}}},
	{"Info", info, func() request { return new(Info) }, memory(info), [][2]int{{88, 104}}},
	{"Msocket", msocket, func() request { return new(Msocket) }, memory(msocket), [][2]int{{13, 16}, {32, 48}}},
	{"Run", run, func() request { return new(Run) }, memory(run), [][2]int{{4, 8}, {24, 40}}},
	{"Restore", restore, func() request { return new(Restore) }, memory(restore), [][2]int{{12, 32}}},
	{"Listen", listen, func() request { return new(Listen) }, memory(listen), [][2]int{{24, 28}, {32, 48}}},
	{"ChanReq", chanReq, func() request { return new(ChanReq) }, memory(chanReq), [][2]int{{4, 8}, {20, 24}}},
}

var (
	version = &Version{Major: 1, Minor: 2, Features: 3 << 40}
	info    = &Info{Kind: KindNetns, Flags: InfoForeign, Families: 1<<2 | 1<<10, NetnsCookie: 0x1122334455667788, Name: [64]byte{'l', 'a', 'b', 63: 'x'}}
	msocket = &Msocket{Domain: 10, Type: -1, Protocol: 262, Flags: MsocketMake, ReplyCookie: 0x8877665544332211, ReplyFD: -2, Result: ResultSelf}
	run     = &Run{ListenerFD: -1, Families: 1 << 63, Ticket: 0x0102030405060708}
	restore = &Restore{ReplyCookie: 0x1020304050607080, ReplyFD: -3}
	listen  = &Listen{ReplyCookie: 0x1020304050607080, ReplyFD: -3, ListenerFD: 12, ListenerCookie: 0x99, BoxSize: 4}
	chanReq = &ChanReq{Seq: 0x80000001, Domain: 2, Type: 1 | 0x80000, Protocol: -6}
	chanRep = &ChanRep{Seq: 7, Error: -22, Flags: ChanClosed, Resv: 9}
)

// memory is what the kernel would copy: the bytes of the Go mirror itself.
func memory[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

func TestCodecAgreesWithMemory(t *testing.T) {
	for _, r := range requests {
		b, err := r.value.MarshalBinary()
		if err != nil || !bytes.Equal(b, r.memory) {
			t.Errorf("%s: MarshalBinary: got %x, %v, want %x", r.name, b, err, r.memory)
		}
		back := r.empty()
		if err := back.UnmarshalBinary(b); err != nil || !reflect.DeepEqual(back, r.value) {
			t.Errorf("%s: UnmarshalBinary: got %+v, %v, want %+v", r.name, back, err, r.value)
		}
	}
	b, err := chanRep.MarshalBinary()
	if err != nil || !bytes.Equal(b, memory(chanRep)) {
		t.Errorf("ChanRep: MarshalBinary: got %x, %v, want %x", b, err, memory(chanRep))
	}
	var back ChanRep
	if err := back.UnmarshalReply(b); err != nil || back != *chanRep {
		t.Errorf("ChanRep: UnmarshalReply: got %+v, %v, want %+v", back, err, *chanRep)
	}
}

func TestRequestWithUnknownContentsIsInvalid(t *testing.T) {
	for _, r := range requests {
		for _, zero := range r.strict {
			for i := zero[0]; i < zero[1]; i++ {
				b := bytes.Clone(r.memory)
				b[i] = 0x80
				if err := r.empty().UnmarshalBinary(b); !errors.Is(err, syscall.EINVAL) {
					t.Errorf("%s with byte %d set: got %v, want EINVAL", r.name, i, err)
				}
			}
		}
	}
	noSeq := ChanReq{Domain: 2, Type: 1}
	if err := new(ChanReq).UnmarshalBinary(memory(&noSeq)); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("ChanReq with seq 0: got %v, want EINVAL", err)
	}
}

func TestWrongSizeIsInvalid(t *testing.T) {
	for _, r := range requests {
		for _, n := range []int{0, 1, len(r.memory) - 1, len(r.memory) + 1, 2 * len(r.memory)} {
			b := make([]byte, n)
			copy(b, r.memory)
			if err := r.empty().UnmarshalBinary(b); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("%s of %d bytes: got %v, want EINVAL", r.name, n, err)
			}
		}
	}
	if err := new(ChanRep).UnmarshalReply(make([]byte, SizeChanRep-1)); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("ChanRep of 15 bytes: got %v, want EINVAL", err)
	}
}

// TestReplyOfLaterVersionIsRead: what a later minor version adds to an
// answer is not there for this one.
func TestReplyOfLaterVersionIsRead(t *testing.T) {
	for _, r := range requests {
		back, ok := r.empty().(reply)
		if !ok {
			continue // travels one way
		}
		b := bytes.Clone(r.memory)
		for _, zero := range r.strict {
			for i := zero[0]; i < zero[1]; i++ {
				b[i] = 0xff
			}
		}
		if err := back.UnmarshalReply(b); err != nil {
			t.Errorf("%s: UnmarshalReply: %v", r.name, err)
		}
	}
}

// fuzz holds that a decoder either refuses with EINVAL or has understood
// every byte: what it decoded is what it was given.
func fuzz(f *testing.F, name string) {
	i := 0
	for requests[i].name != name {
		i++
	}
	r := requests[i]
	f.Add(r.memory)
	f.Add(make([]byte, len(r.memory)))
	f.Add(bytes.Repeat([]byte{0xff}, len(r.memory)))
	f.Fuzz(func(t *testing.T, b []byte) {
		v := r.empty()
		if err := v.UnmarshalBinary(b); err != nil {
			if !errors.Is(err, syscall.EINVAL) {
				t.Fatalf("UnmarshalBinary(%x): got %v, want EINVAL", b, err)
			}
			return
		}
		back, err := v.MarshalBinary()
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("decoded %x, encoded again %x, %v", b, back, err)
		}
		if v, ok := v.(reply); ok {
			if err := v.UnmarshalReply(b); err != nil {
				t.Fatalf("UnmarshalReply(%x): %v", b, err)
			}
		}
	})
}

func FuzzVersion(f *testing.F) { fuzz(f, "Version") }
func FuzzInfo(f *testing.F)    { fuzz(f, "Info") }
func FuzzMsocket(f *testing.F) { fuzz(f, "Msocket") }
func FuzzRun(f *testing.F)     { fuzz(f, "Run") }
func FuzzRestore(f *testing.F) { fuzz(f, "Restore") }
func FuzzListen(f *testing.F)  { fuzz(f, "Listen") }
func FuzzChanReq(f *testing.F) { fuzz(f, "ChanReq") }

func FuzzChanRep(f *testing.F) {
	f.Add(memory(chanRep))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v ChanRep
		if err := v.UnmarshalReply(b); err != nil {
			if !errors.Is(err, syscall.EINVAL) || len(b) == SizeChanRep {
				t.Fatalf("UnmarshalReply(%x): got %v, want EINVAL for a wrong size only", b, err)
			}
			return
		}
		if back, err := v.MarshalBinary(); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("decoded %x, encoded again %x, %v", b, back, err)
		}
	})
}
