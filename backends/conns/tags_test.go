package conns

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/backends/worker"
)

// accepted returns a listener, whose descriptor tag gets before a connection
// is made, and the cookies of listener, accepted socket and client.
func accepted(t *testing.T, tag func(fd int) error) (listener, server, client uint64) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	cookie := func(c interface{ File() (*os.File, error) }, fn func(fd int) error) uint64 {
		f, err := c.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		n, err := unix.GetsockoptUint64(int(f.Fd()), unix.SOL_SOCKET, unix.SO_COOKIE)
		if fn != nil {
			err = errors.Join(err, fn(int(f.Fd())))
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	listener = cookie(l, tag)
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return listener, cookie(s, nil), cookie(c.(*net.TCPConn), nil)
}

// parted returns the cookies of the stack that has the tagged sockets and of
// the one that has the others.
func parted(t *testing.T, tags *Tags) (with, without map[uint64]bool) {
	t.Helper()
	var sets [2]map[uint64]bool
	for i, want := range []Tagged{OnlyTagged, OnlyUntagged} {
		w, err := worker.New(worker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		s := New(Config{Stack: "test", Worker: w, Tagged: want, Env: Env{Tags: tags}})
		list, err := s.Conns(t.Context())
		if err = errors.Join(err, s.Close(), w.Close()); err != nil {
			t.Fatal(err)
		}
		sets[i] = map[uint64]bool{}
		for _, c := range list {
			sets[i][c.Cookie] = true
		}
	}
	return sets[0], sets[1]
}

func TestTagsPartTheConnections(t *testing.T) {
	requireRoot(t)
	t.Setenv("GODEBUG", "multipathtcp=0") // listeners of MPTCP pass nothing on
	tags := NewTags(t.TempDir())
	if with, _ := parted(t, tags); len(with) != 0 {
		t.Errorf("%d sockets have a tag before there is one", len(with))
	}
	l, s, c := accepted(t, tags.Put)
	other, _, _ := accepted(t, nil)
	with, without := parted(t, tags)
	for _, x := range []struct {
		name   string
		cookie uint64
		tagged bool
	}{{"listener", l, true}, {"accepted socket", s, true}, {"client", c, false}, {"another listener", other, false}} {
		if with[x.cookie] != x.tagged || without[x.cookie] == x.tagged {
			t.Errorf("%s: with tag %v, without %v, want tagged %v", x.name, with[x.cookie], without[x.cookie], x.tagged)
		}
	}
}

// The next daemon has the tags of the one before, as long as there is a
// listener with the program that keeps them.
func TestTagsAreAdopted(t *testing.T) {
	requireRoot(t)
	t.Setenv("GODEBUG", "multipathtcp=0")
	dir := t.TempDir()
	first := NewTags(dir)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkReuseport, AttachType: ebpf.AttachSkReuseportSelectOrMigrate, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	_, s, _ := accepted(t, func(fd int) error { return errors.Join(first.Put(fd), first.Keep(prog)) })
	first.m.Close() // as a daemon that is killed does

	stranger := NewTags(dir + "-other")
	if err := stranger.Adopt(); err != nil || stranger.m != nil {
		t.Errorf("the tags of another mount: %v, %v", stranger.m, err)
	}
	next := NewTags(dir)
	if err := next.Adopt(); err != nil || next.m == nil {
		t.Fatalf("no tags: %v", err)
	}
	if with, without := parted(t, next); !with[s] || without[s] {
		t.Error("the connection has lost its tag")
	}
	next.m.Close()
	prog.Close()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		m, err := findTags(next.name)
		if err != nil {
			t.Fatal(err)
		}
		if m == nil {
			return
		}
		m.Close()
		if time.Now().After(end) {
			t.Fatal("the tags stay without daemon and program")
		}
	}
}
