package snapshot

import (
	"context"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

func TestStatesAndFamilies(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	const in, out = 50_000, 300_000
	bytes := stream(out)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			for _, c := range []struct {
				state soccr.State
				make  func(t *testing.T, p *pair) *end
			}{
				{soccr.Established, func(t *testing.T, p *pair) *end {
					mustSend(t, p.client, bytes[:in])
					must(t, p.server.await(in))
					must(t, p.client.deafen())
					mustFill(t, p.server, bytes)
					return p.server
				}},
				{soccr.FinWait1, func(t *testing.T, p *pair) *end {
					mustSend(t, p.server, bytes[:in])
					must(t, p.client.await(in))
					must(t, p.server.deafen())
					mustFill(t, p.client, bytes)
					must(t, unix.Shutdown(p.client.fd, unix.SHUT_WR))
					return p.client
				}},
				{soccr.FinWait2, func(t *testing.T, p *pair) *end {
					must(t, unix.Shutdown(p.client.fd, unix.SHUT_WR))
					must(t, p.client.awaitState(soccr.FinWait2))
					mustSend(t, p.server, bytes[:in])
					must(t, p.client.await(in))
					return p.client
				}},
				{soccr.CloseWait, func(t *testing.T, p *pair) *end {
					mustSend(t, p.client, bytes[:in])
					must(t, unix.Shutdown(p.client.fd, unix.SHUT_WR))
					must(t, p.server.awaitState(soccr.CloseWait))
					must(t, p.server.await(in))
					must(t, p.client.deafen())
					mustFill(t, p.server, bytes)
					return p.server
				}},
				{soccr.LastAck, func(t *testing.T, p *pair) *end {
					mustSend(t, p.client, bytes[:in])
					must(t, unix.Shutdown(p.client.fd, unix.SHUT_WR))
					must(t, p.server.awaitState(soccr.CloseWait))
					must(t, p.client.deafen())
					mustFill(t, p.server, bytes)
					must(t, unix.Shutdown(p.server.fd, unix.SHUT_WR))
					return p.server
				}},
				{soccr.Closing, func(t *testing.T, p *pair) *end {
					// Both end at once: the client does not hear the
					// server's acknowledgement, but its FIN.
					mustSend(t, p.server, bytes[:in])
					must(t, p.client.await(in))
					must(t, p.server.deafen())
					mustFill(t, p.client, bytes)
					must(t, unix.Shutdown(p.client.fd, unix.SHUT_WR))
					must(t, unix.Shutdown(p.server.fd, unix.SHUT_WR))
					must(t, p.client.awaitState(soccr.Closing))
					return p.client
				}},
			} {
				t.Run(c.state.String(), func(t *testing.T) {
					p := ns.mustPair(t, f.family, f.addr)
					e := c.make(t, p)
					got := mustTakeConn(t, s, ns, e)
					if got.State != c.state {
						t.Fatalf("state %v, want %v", got.State, c.state)
					}
					if got.Family != f.family || got.Local.Addr() != f.addr {
						t.Errorf("family %d, local address %v", got.Family, got.Local)
					}
					switch c.state {
					case soccr.FinWait2:
					default:
						if got.UnsqLen == 0 || got.UnsqLen == got.OutqLen {
							t.Errorf("%d bytes of %d unsent, want some of both", got.UnsqLen, got.OutqLen)
						}
						if n := int(got.OutqLen); n == 0 || !slices.Equal(got.Send, bytes[:n]) {
							t.Errorf("send queue: %d other bytes than were sent", n)
						}
					}
					if !slices.Equal(got.Recv, bytes[:in]) {
						t.Errorf("receive queue: %d other bytes than were sent", len(got.Recv))
					}
					mustMatch(t, s, ns, got, e)
				})
			}
		})
	}
}

// The owner read the end of the stream, or some of the bytes before it.
func TestEndOfStreamReadAndUnread(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	for _, unread := range []int{0, 1, 100} {
		p := ns.mustPair(t, unix.AF_INET, v4Loopback)
		bytes := stream(100)
		mustSend(t, p.client, bytes)
		must(t, unix.Shutdown(p.client.fd, unix.SHUT_WR))
		must(t, p.server.awaitState(soccr.CloseWait))
		if unread < 100 {
			if n, err := unix.Read(p.server.fd, make([]byte, 100-unread)); n != 100-unread {
				t.Fatalf("read: %d, %v", n, err)
			}
		}
		if unread == 0 {
			if n, err := unix.Read(p.server.fd, make([]byte, 1)); n != 0 || err != nil {
				t.Fatalf("read at the end: %d, %v", n, err)
			}
		}
		got := mustTakeConn(t, s, ns, p.server)
		if !slices.Equal(got.Recv, bytes[100-unread:]) {
			t.Errorf("%d unread: got %d bytes", unread, len(got.Recv))
		}
		mustMatch(t, s, ns, got, p.server)
	}
}

func TestSynSent(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	for _, f := range families {
		var e *end
		ns.mustDo(t, func() (err error) {
			// A full accept queue ignores SYNs.
			l, to, err := listen(f.family, f.addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			for range 3 {
				if e, err = dial(f.family, to); err != nil {
					return err
				}
				c := e
				t.Cleanup(func() { c.Close() })
			}
			return nil
		})
		got := mustTakeConn(t, s, ns, e)
		if got.State != soccr.SynSent || len(got.Recv)+len(got.Send) != 0 || got.UnsqLen != 0 {
			t.Errorf("%s: state %v, %d+%d bytes, %d unsent", f.name, got.State, len(got.Recv), len(got.Send), got.UnsqLen)
		}
		mustMatch(t, s, ns, got, e)
	}
}

// Sockets that were never connected, and those that ended, are in no table
// that the iterator goes through.
func TestNotFound(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	must(t, unix.Shutdown(p.client.fd, unix.SHUT_WR))
	must(t, p.server.awaitState(soccr.CloseWait))
	must(t, unix.Shutdown(p.server.fd, unix.SHUT_WR))
	must(t, p.server.awaitState(soccr.Close))
	results, err := s.Take(context.Background(), ns.netns(), []uint64{p.server.cookie, p.client.cookie, 1 << 60})
	must(t, err)
	for i, want := range []error{soccr.ErrNotFound, soccr.ErrEnded, soccr.ErrNotFound} {
		if !errors.Is(results[i].Err, want) || results[i].Conn != nil {
			t.Errorf("result %d: got %v, want %v", i, results[i].Err, want)
		}
	}
}

// A socket of another namespace is not found, whatever its cookie.
func TestOtherNamespaceIsNotFound(t *testing.T) {
	s, here, there := mustNew(t), newSpace(t), newSpace(t)
	p := there.mustPair(t, unix.AF_INET, v4Loopback)
	if r := mustTake(t, s, here, p.client); !errors.Is(r.Err, soccr.ErrNotFound) {
		t.Errorf("in another namespace: got %v, want %v", r.Err, soccr.ErrNotFound)
	}
	mustTakeConn(t, s, there, p.client)
}
