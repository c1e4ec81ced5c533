package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// skip skips a test that lacks a need, which fails it with STACKFS_STRICT=1.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("STACKFS_STRICT") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// mustNew returns a Snapshotter that is closed with the test.
func mustNew(t testing.TB) *Snapshotter {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root: BPF, namespaces")
	}
	s, err := New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	if errors.Is(err, errors.ErrUnsupported) {
		skip(t, "New: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// A space is a network namespace with a thread in it.
type space struct {
	calls chan func()
}

// newSpace makes a namespace with loopback, which ends with the test.
func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{calls: make(chan func())}
	ready, done := make(chan error), make(chan error, 1)
	go func() {
		done <- inNewNetns(func() error {
			if err := loopbackUp(); err != nil {
				return err
			}
			ready <- nil
			for call := range s.calls {
				call()
			}
			return nil
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(s.calls)
		<-done
	})
	return s
}

// do runs fn on the thread in the namespace.
func (s *space) do(fn func() error) error {
	done := make(chan error, 1)
	s.calls <- func() { done <- fn() }
	return <-done
}

func (s *space) netns() NetNS { return NetNS{Key: s, Do: s.do} }

// mustDo is do for what cannot fail.
func (s *space) mustDo(t testing.TB, fn func() error) {
	t.Helper()
	if err := s.do(fn); err != nil {
		t.Fatal(err)
	}
}

// sysctl sets a value below /proc/sys/net, for this namespace alone.
func (s *space) sysctl(t testing.TB, name, value string) {
	t.Helper()
	s.mustDo(t, func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

var (
	v4Loopback     = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	mappedLoopback = netip.AddrFrom16(v4Loopback.As16())
)

// families are the kinds of addresses that a TCP connection can have.
var families = []struct {
	name   string
	family int
	addr   netip.Addr
}{
	{"inet", unix.AF_INET, v4Loopback},
	{"inet6", unix.AF_INET6, netip.IPv6Loopback()},
	{"v4-mapped", unix.AF_INET6, mappedLoopback},
}

// mustPair connects two sockets in the namespace, closed with the test.
func (s *space) mustPair(t testing.TB, family int, addr netip.Addr) *pair {
	t.Helper()
	var p *pair
	s.mustDo(t, func() (err error) {
		p, err = newPair(family, addr)
		return err
	})
	t.Cleanup(p.Close)
	return p
}

// mustTake takes a snapshot of one connection.
func mustTake(t testing.TB, s *Snapshotter, ns *space, e *end) Result {
	t.Helper()
	results, err := s.Take(context.Background(), ns.netns(), []uint64{e.cookie})
	if err != nil {
		t.Fatalf("Take: %v", err)
	}
	return results[0]
}

// mustTakeConn takes a snapshot that must succeed.
func mustTakeConn(t testing.TB, s *Snapshotter, ns *space, e *end) *soccr.Conn {
	t.Helper()
	r := mustTake(t, s, ns, e)
	if r.Err != nil {
		t.Fatalf("snapshot: %v", r.Err)
	}
	return r.Conn
}

// mustMatch compares a snapshot of a socket that nobody uses with what
// repair mode shows, bytes and all. Where a timer of the connection changed
// it in between, it takes another.
func mustMatch(t testing.TB, s *Snapshotter, ns *space, got *soccr.Conn, e *end) {
	t.Helper()
	var err error
	for range 5 {
		if err = match(got, e); err == nil {
			return
		}
		got = mustTakeConn(t, s, ns, e)
	}
	t.Errorf("snapshot of %v: %v", got.State, err)
}

func match(got *soccr.Conn, e *end) error {
	want, err := saveInRepairMode(e.fd)
	if err != nil {
		return fmt.Errorf("repair mode: %w", err)
	}
	late, most := want.Timestamp-got.Timestamp, uint32(10_000) // ms
	if got.OptMask&soccr.OptUsecTS != 0 {
		most *= 1000
	}
	switch {
	case !bytes.Equal(got.Recv, want.Recv):
		return fmt.Errorf("%d bytes in the receive queue, in repair mode %d", len(got.Recv), len(want.Recv))
	case !bytes.Equal(got.Send, want.Send):
		return fmt.Errorf("%d bytes in the send queue, in repair mode %d", len(got.Send), len(want.Send))
	case late > most:
		return fmt.Errorf("timestamp %d, later %d", got.Timestamp, want.Timestamp)
	}
	now, later := got.Info, want.Info
	now.Lost, later.Lost = nil, nil
	if !reflect.DeepEqual(now, later) {
		return fmt.Errorf("%+v, in repair mode %+v", now, later)
	}
	return differs(got, want)
}

// awaitAcks waits until the peer acknowledged everything.
func (e *end) awaitAcks() error {
	return until(func() (bool, error) {
		n, err := unix.IoctlGetInt(e.fd, unix.SIOCOUTQ)
		return n == 0, err
	})
}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mustSend sends all of b, and waits for the socket to take it.
func mustSend(t testing.TB, e *end, b []byte) {
	t.Helper()
	for len(b) > 0 {
		n, err := e.send(b)
		must(t, err)
		if b = b[n:]; len(b) > 0 {
			must(t, e.wait(unix.POLLOUT))
		}
	}
}

// mustFill sends as much of b as the socket takes without its peer reading,
// and returns it.
func mustFill(t testing.TB, e *end, b []byte) []byte {
	t.Helper()
	total := 0
	for idle := 0; idle < 20 && total < len(b); {
		n, err := e.send(b[total:])
		must(t, err)
		total += n
		if n == 0 {
			idle++
			time.Sleep(5 * time.Millisecond)
		}
	}
	return b[:total]
}

// stream returns n bytes that tell where in a stream they are.
func stream(n int) []byte {
	b := make([]byte, (n+7)&^7)
	fillStream(b)
	return b[:n]
}
