package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// streamAt fills b with the bytes of the endless stream from pos on.
func streamAt(b []byte, pos int64) {
	var word [8]byte
	for i := 0; i < len(b); {
		off := (pos + int64(i)) & 7
		binary.NativeEndian.PutUint64(word[:], mix(uint64(pos+int64(i)-off)))
		i += copy(b[i:], word[off:])
	}
}

// isStream tells whether b is what the stream has from pos on.
func isStream(b []byte, pos int64) bool {
	want := make([]byte, min(len(b), 64<<10))
	for len(b) > 0 {
		n := min(len(b), len(want))
		streamAt(want[:n], pos)
		if !slices.Equal(b[:n], want[:n]) {
			return false
		}
		b, pos = b[n:], pos+int64(n)
	}
	return true
}

// An echo is a connection that is always busy: the client sends the stream
// in pieces of any size, the server sends back what it reads, and the client
// checks what comes back.
type echo struct {
	client, server *os.File
	sent           atomic.Int64 // by the client
	wg             sync.WaitGroup
}

func startEcho(t *testing.T, p *pair) *echo {
	e := &echo{client: mustDup(t, p.client), server: mustDup(t, p.server)}
	e.wg.Go(func() {
		b := make([]byte, 200_000)
		for pos := int64(0); ; {
			n := 1 + rand.IntN(len(b))
			streamAt(b[:n], pos)
			if _, err := e.client.Write(b[:n]); err != nil {
				if !errors.Is(err, unix.EPIPE) { // stop
					t.Errorf("client writes: %v", err)
				}
				return
			}
			pos += int64(n)
			e.sent.Store(pos)
		}
	})
	e.wg.Go(func() {
		b := make([]byte, 100_000)
		for {
			n, err := e.server.Read(b[:1+rand.IntN(len(b))])
			if err == nil {
				_, err = e.server.Write(b[:n])
			}
			if errors.Is(err, io.EOF) {
				err = unix.Shutdown(p.server.fd, unix.SHUT_WR)
				if err == nil {
					return
				}
			}
			if err != nil {
				t.Errorf("server: %v", err)
				return
			}
		}
	})
	e.wg.Go(func() {
		b := make([]byte, 150_000)
		for pos := int64(0); ; {
			n, err := e.client.Read(b[:1+rand.IntN(len(b))])
			if !isStream(b[:n], pos) {
				t.Errorf("client: what came back at %d is not what was sent", pos)
			}
			pos += int64(n)
			time.Sleep(200 * time.Microsecond) // queues grow, and others have the processor
			if errors.Is(err, io.EOF) && pos >= e.sent.Load() {
				return
			}
			if err != nil {
				t.Errorf("client reads: %v after %d of %d bytes", err, pos, e.sent.Load())
				return
			}
		}
	})
	return e
}

// stop lets everything that was sent come back.
func (e *echo) stop(t *testing.T, p *pair) {
	must(t, unix.Shutdown(p.client.fd, unix.SHUT_WR))
	e.wg.Wait()
	e.client.Close()
	e.server.Close()
}

// mustDup returns a file for a socket, for Go's poller.
func mustDup(t *testing.T, e *end) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	return os.NewFile(uintptr(fd), "socket")
}

// checkAt wants the queues of a snapshot to be the stream at the place that
// their sequence numbers tell. begin are the numbers of the first bytes, near
// a position that is at most 2 GiB off.
func checkAt(c *soccr.Conn, begin soccr.Data, near int64) error {
	at := func(seq uint32) int64 { return near + int64(int32(seq-uint32(near))) }
	recv := at(c.InqSeq - begin.InqSeq - c.InqLen)
	send := at(c.OutqSeq - begin.OutqSeq - c.OutqLen)
	switch {
	case c.State != soccr.Established:
		return fmt.Errorf("state %v", c.State)
	case !isStream(c.Recv, recv):
		return fmt.Errorf("receive queue, %d bytes at %d: not what was sent", len(c.Recv), recv)
	case !isStream(c.Send, send):
		return fmt.Errorf("send queue, %d bytes at %d: not what was sent", len(c.Send), send)
	}
	return nil
}

// The main promise: a busy connection does not notice, and every byte of
// every snapshot is the one that belongs there.
func TestBusyConnection(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	for _, c := range []struct {
		name   string
		buffer int // bytes, 0: as the kernel likes
		takes  int // of two ends each
	}{
		{"small buffers", 100_000, 940},
		{"large buffers", 0, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := ns.mustPair(t, unix.AF_INET6, mappedLoopback)
			ends := []*end{p.client, p.server}
			for _, e := range ends {
				if c.buffer > 0 {
					e.force(t, c.buffer)
				}
			}
			var begin []soccr.Data
			for _, r := range mustTakeAll(t, s, ns, ends) {
				must(t, r.Err)
				begin = append(begin, r.Conn.Data)
			}
			e := startEcho(t, p)
			must(t, until(func() (bool, error) { return e.sent.Load() > 1<<20, nil }))
			var bytes, empty int
			var held []time.Duration
			for range c.takes {
				for i, r := range mustTakeAll(t, s, ns, ends) {
					if r.Err != nil {
						t.Fatalf("end %d: %v", i, r.Err)
					}
					if err := checkAt(r.Conn, begin[i], e.sent.Load()); err != nil {
						t.Fatalf("end %d: %v", i, err)
					}
					n := len(r.Conn.Recv) + len(r.Conn.Send)
					bytes += n
					if n == 0 {
						empty++
					}
					held = append(held, r.Held)
				}
			}
			e.stop(t, p)
			slices.Sort(held)
			t.Logf("%d snapshots, %d KB in their queues, %d empty; %d MB were sent; locked %v, at most %v",
				len(held), bytes>>10, empty, e.sent.Load()>>20, held[len(held)/2], held[len(held)-1])
			if empty > len(held)/2 {
				t.Errorf("%d of %d snapshots had empty queues", empty, len(held))
			}
		})
	}
}
