package soccr

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// takeAll is a filter that keeps all of every packet, in a longer way than
// it needs to.
var takeAll = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
}

func TestBlock(t *testing.T) {
	t.Parallel()
	for name, old := range map[string][]unix.SockFilter{"no filter": nil, "filter": takeAll} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			enterNetNS(t)
			p := loPair(t, families[0])
			if old != nil {
				check(t, attachFilter(p.a, old))
			}
			b, err := Block(p.a)
			check(t, err)
			writeAll(t, p.b, []byte("hello"))
			time.Sleep(20 * time.Millisecond)
			if n := ioctl(t, p.a, unix.SIOCINQ); n != 0 {
				t.Errorf("%d bytes came in", n)
			}
			check(t, b.Undo())
			got, _, err := readFilter(p.a)
			check(t, err)
			if !slices.Equal(got, old) {
				t.Errorf("filter: got %v, want %v", got, old)
			}
			readAll(t, "a", p.a, []byte("hello")) // sent again
		})
	}
}

// ebpfTakeAll loads an eBPF filter that keeps all of every packet.
func ebpfTakeAll(t testing.TB) int {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SocketFilter,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		t.Fatalf("load an eBPF program: %v", err)
	}
	t.Cleanup(func() { prog.Close() })
	return prog.FD()
}

func TestBlockRefusesWhatItCannotPutBack(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	p := loPair(t, families[0])
	check(t, attachFilter(p.a, takeAll))
	check(t, unix.SetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
	if _, err := Block(p.a); !errors.Is(err, unix.EPERM) {
		t.Errorf("locked: %v, want %v", err, unix.EPERM)
	}
	writeAll(t, p.b, []byte("hello"))
	readAll(t, "a", p.a, []byte("hello"))

	prog := ebpfTakeAll(t)
	check(t, unix.SetsockoptInt(p.b, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, prog))
	if _, err := Block(p.b); !errors.Is(err, unix.EACCES) {
		t.Errorf("eBPF: %v, want %v", err, unix.EACCES)
	}
	writeAll(t, p.a, []byte("hello"))
	readAll(t, "b", p.b, []byte("hello"))
	s, err := Pause(p.b)
	check(t, err)
	if c := mustConn(t, s); !slices.Equal(c.Info.Lost, []string{"socket filter"}) {
		t.Errorf("Lost: %v", c.Info.Lost)
	}
	check(t, s.Resume())
}

// The packets of the peer that come while a restore is at work are for
// later: the socket must not take them between two pieces of a queue.
func TestRestoreTakesNoPackets(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	p := loPair(t, families[0])
	p.sendToA(1000)
	c := saveAndDiscard(t, p.a)
	s, err := Pause(open(t, unix.AF_INET))
	check(t, err)
	check(t, s.restore(c))
	writeAll(t, p.b, []byte("hello"))
	time.Sleep(20 * time.Millisecond)
	if n := ioctl(t, s.fd, unix.SIOCINQ); n != 1000 {
		t.Errorf("%d bytes in the queue, want 1000", n)
	}
	check(t, s.Resume())
	if _, n, err := readFilter(s.fd); n != 0 || err != nil {
		t.Errorf("a filter of %d instructions stays, %v", n, err)
	}
	readAll(t, "a", s.fd, append(p.toA, "hello"...))
}
