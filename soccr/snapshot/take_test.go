package snapshot

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// A connection that nobody accepted has no file and no inode.
func TestNotAcceptedYet(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	var l, client *end
	ns.mustDo(t, func() error {
		var to unix.Sockaddr
		var err error
		if l, to, err = listen(unix.AF_INET, v4Loopback); err != nil {
			return err
		}
		client, err = dial(unix.AF_INET, to)
		return err
	})
	defer l.Close()
	defer client.Close()
	must(t, client.wait(unix.POLLOUT))
	data := stream(30_000)
	mustSend(t, client, data)
	found := false
	for _, row := range mustList(t, ns) {
		if row.state != soccr.Established || row.cookie == client.cookie {
			continue
		}
		found = true
		got := mustTakeConn(t, s, ns, &end{cookie: row.cookie})
		if got.Meta.Inode != 0 || !bytes.Equal(got.Recv, data) {
			t.Errorf("inode %d, %d bytes", got.Meta.Inode, len(got.Recv))
		}
		server, err := l.accept()
		must(t, err)
		got = mustTakeConn(t, s, ns, server)
		if got.Meta.Inode == 0 || got.Meta.Cookie != row.cookie {
			t.Errorf("accepted: inode %d, cookie %d", got.Meta.Inode, got.Meta.Cookie)
		}
		mustMatch(t, s, ns, got, server)
		server.Close()
	}
	if !found {
		t.Error("the connection is not in the table")
	}
}

// A socket that its owner closed lives on until the peer has everything.
func TestOrphan(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	must(t, p.client.deafen())
	must(t, unix.SetsockoptLinger(p.server.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}))
	data := mustFill(t, p.server, stream(100_000))
	cookie := p.server.cookie
	must(t, p.server.Close())
	p.server = nil
	got := mustTakeConn(t, s, ns, &end{cookie: cookie})
	if got.State != soccr.FinWait1 || got.Meta.Inode != 0 || !bytes.Equal(got.Send, data) {
		t.Errorf("state %v, inode %d, %d bytes of %d", got.State, got.Meta.Inode, len(got.Send), len(data))
	}
}

// The results belong to their callers, also when they wanted the same.
func TestSameConnectionTwice(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	data := stream(1000)
	mustSend(t, p.client, data)
	must(t, p.server.await(1000))
	results := mustTakeAll(t, s, ns, []*end{p.server, p.client, p.server})
	for _, i := range []int{0, 2} {
		if results[i].Err != nil || !bytes.Equal(results[i].Conn.Recv, data) {
			t.Fatalf("result %d: %v", i, results[i].Err)
		}
		clear(results[i].Conn.Recv)
		results[i].Conn.Options["TCP_NODELAY"] = 99
	}
	if results[0].Conn.Meta.Cookie != p.server.cookie || results[1].Conn.Meta.Cookie != p.client.cookie {
		t.Error("the results are not in the order of the cookies")
	}
	if s.passes.Load() != 4 { // three of them New's
		t.Errorf("%d passes, want 4", s.passes.Load())
	}
}

// Requests that come while a pass runs share the next one.
func TestOverlappingTakesShareAPass(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	var enter sync.Once
	entered, release := make(chan bool), make(chan bool)
	slow := ns.netns()
	slow.Do = func(fn func() error) error {
		enter.Do(func() { close(entered) })
		<-release
		return ns.do(fn)
	}
	before := s.passes.Load()
	var wg sync.WaitGroup
	take := func(ns NetNS, e *end) {
		wg.Go(func() {
			results, err := s.Take(context.Background(), ns, []uint64{e.cookie})
			if err != nil || results[0].Err != nil || results[0].Conn.Meta.Cookie != e.cookie {
				t.Errorf("Take: %v, %v", err, results)
			}
		})
	}
	take(slow, p.client)
	<-entered
	for range 50 {
		take(ns.netns(), p.client)
		take(ns.netns(), p.server)
	}
	for until := time.Now().Add(10 * time.Second); ; {
		s.mu.Lock()
		waiting := s.pending[ns.netns().Key] != nil && s.pending[ns.netns().Key].waiting == 100
		s.mu.Unlock()
		if waiting {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the requests do not wait")
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := s.passes.Load() - before; n != 2 {
		t.Errorf("101 requests took %d passes, want 2", n)
	}
}

func TestHundredTakesAtOnce(t *testing.T) {
	s := mustNew(t)
	spaces := []*space{newSpace(t), newSpace(t)}
	data := stream(20_000)
	var pairs [2]*pair
	for i, ns := range spaces {
		pairs[i] = ns.mustPair(t, unix.AF_INET, v4Loopback)
		mustSend(t, pairs[i].client, data)
		must(t, pairs[i].server.await(len(data)))
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			results, err := s.Take(context.Background(), spaces[i%2].netns(), []uint64{pairs[i%2].server.cookie})
			if err != nil || results[0].Err != nil || !bytes.Equal(results[0].Conn.Recv, data) {
				t.Errorf("Take: %v, %v", err, results)
			}
		})
	}
	wg.Wait()
}

func TestTakeErrors(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	cookies := []uint64{p.client.cookie}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Take(ctx, ns.netns(), cookies); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v", err)
	}

	gone := errors.New("the namespace is gone")
	broken := NetNS{Key: "broken", Do: func(func() error) error { return gone }}
	if _, err := s.Take(context.Background(), broken, cookies); !errors.Is(err, gone) {
		t.Errorf("Do fails: got %v", err)
	}
	mustTakeConn(t, s, ns, p.client) // and nothing stays of it

	if r, err := s.Take(context.Background(), broken, nil); r != nil || err != nil {
		t.Errorf("no cookies: got %v, %v", r, err)
	}

	// A canceled Take returns while its pass is stuck.
	ctx, cancel = context.WithCancel(context.Background())
	stuck := make(chan bool)
	slow := NetNS{Key: "slow", Do: func(fn func() error) error {
		cancel()
		<-stuck
		return ns.do(fn)
	}}
	if _, err := s.Take(ctx, slow, cookies); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled in the middle: got %v", err)
	}
	close(stuck)

	must(t, s.Close())
	if _, err := s.Take(context.Background(), ns.netns(), cookies); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: got %v", err)
	}
	must(t, s.Close())
}

// A batch that nobody waits for any more is not taken.
func TestUnwantedBatchIsLeftOut(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	p := ns.mustPair(t, unix.AF_INET, v4Loopback)
	s.pass.Lock()
	before := s.passes.Load()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := s.Take(ctx, ns.netns(), []uint64{p.client.cookie})
	s.pass.Unlock()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	s.running.Wait()
	if n := s.passes.Load() - before; n != 0 {
		t.Errorf("%d passes, want none", n)
	}
}

// Connections come and go while snapshots are taken of them.
func TestConnectionsThatEnd(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	data := stream(10_000)
	var live atomic.Pointer[[]*end]
	live.Store(&[]*end{})
	stop := make(chan bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			var p *pair
			if err := ns.do(func() (err error) {
				p, err = newPair(families[i%3].family, families[i%3].addr)
				return err
			}); err != nil {
				t.Errorf("pair: %v", err)
				return
			}
			if _, err := p.client.send(data); err != nil {
				t.Errorf("send: %v", err)
			}
			live.Store(&[]*end{p.client, p.server})
			time.Sleep(time.Duration(i%5) * time.Millisecond)
			if i%2 == 0 { // by FINs, else by resets
				unix.Shutdown(p.client.fd, unix.SHUT_WR)
				unix.Shutdown(p.server.fd, unix.SHUT_WR)
			}
			p.Close()
		}
	})
	outcomes := map[string]int{}
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
		ends := *live.Load()
		for i, r := range mustTakeAll(t, s, ns, ends) {
			switch {
			case r.Err == nil:
				outcomes["taken"]++
				if !bytes.Equal(r.Conn.Recv, data) && len(r.Conn.Recv) != 0 || i == 0 && len(r.Conn.Recv) != 0 {
					t.Fatalf("%d other bytes than were sent", len(r.Conn.Recv))
				}
			case errors.Is(r.Err, soccr.ErrNotFound):
				outcomes["not found"]++
			case errors.Is(r.Err, soccr.ErrEnded):
				outcomes["ended"]++
			default:
				t.Fatalf("snapshot: %v", r.Err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if outcomes["taken"] == 0 || outcomes["not found"] == 0 {
		t.Errorf("outcomes %v: not both were tested", outcomes)
	}
}
