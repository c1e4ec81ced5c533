package soccr

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// Another process puts back what one that died has left.
func TestPrior(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	for name, old := range map[string][]unix.SockFilter{"no filter": nil, "filter": takeAll} {
		for _, reuse := range []int{0, 1} {
			p := loPair(t, families[0])
			check(t, unix.SetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse))
			if old != nil {
				check(t, attachFilter(p.a, old))
			}
			prior, err := ReadPrior(p.a)
			check(t, err)
			wire, err := prior.MarshalBinary()
			check(t, err)
			_, err = Block(p.a)
			check(t, err)
			_, err = Pause(p.a)
			check(t, err)
			if _, err := ReadPrior(p.a); !errors.Is(err, ErrRepair) {
				t.Errorf("of a socket in repair mode: got %v, want ErrRepair", err)
			}

			var passed Prior
			check(t, passed.UnmarshalBinary(wire))
			if !passed.Equal(prior) || passed.UnmarshalBinary(wire[1:]) == nil {
				t.Errorf("%s: got %v, want %v", name, passed, prior)
			}
			check(t, passed.UnmarshalBinary(wire))
			for range 2 { // the second time there is nothing to do
				check(t, passed.PutBack(p.a))
				got, _, err := readFilter(p.a)
				check(t, err)
				if !slices.Equal(got, old) {
					t.Errorf("%s: filter: got %v, want %v", name, got, old)
				}
				if n, err := unix.GetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_REUSEADDR); n != reuse || err != nil {
					t.Errorf("%s: SO_REUSEADDR: got %d, %v, want %d", name, n, err, reuse)
				}
				if n, err := unix.GetsockoptInt(p.a, unix.SOL_TCP, unix.TCP_REPAIR); n != 0 || err != nil {
					t.Errorf("%s: TCP_REPAIR: got %d, %v, want 0", name, n, err)
				}
			}
			writeAll(t, p.b, []byte("hello"))
			readAll(t, "a", p.a, []byte("hello"))
		}
	}
}

// A filter that the owner attached meanwhile stays.
func TestPriorLeavesAnotherFilter(t *testing.T) {
	t.Parallel()
	enterNetNS(t)
	p := loPair(t, families[0])
	prior, err := ReadPrior(p.a)
	check(t, err)
	_, err = BlockNoWait(p.a)
	check(t, err)
	check(t, attachFilter(p.a, takeAll))
	check(t, prior.PutBack(p.a))
	if got, _, err := readFilter(p.a); err != nil || !slices.Equal(got, takeAll) {
		t.Errorf("got %v, %v", got, err)
	}
	check(t, unix.SetsockoptInt(p.a, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, ebpfTakeAll(t)))
	check(t, prior.PutBack(p.a))
	if _, _, err := readFilter(p.a); !errors.Is(err, unix.EACCES) {
		t.Errorf("the eBPF filter: got %v, want EACCES", err)
	}
}
