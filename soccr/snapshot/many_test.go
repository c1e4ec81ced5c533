package snapshot

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mustPairs connects n pairs over one listener.
func (s *space) mustPairs(t testing.TB, n int) []*end {
	t.Helper()
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < uint64(2*n+100) {
		skip(t, "needs %d descriptors, not %d", 2*n+100, limit.Cur)
	}
	var ends []*end
	t.Cleanup(func() {
		for _, e := range ends {
			e.Close()
		}
	})
	s.mustDo(t, func() error {
		l, to, err := listen(unix.AF_INET, v4Loopback)
		if err != nil {
			return err
		}
		defer l.Close()
		for range n {
			client, err := dial(unix.AF_INET, to)
			if err != nil {
				return err
			}
			ends = append(ends, client)
			server, err := l.accept()
			if err != nil {
				return err
			}
			ends = append(ends, server)
		}
		return nil
	})
	return ends
}

func TestTenThousandConnections(t *testing.T) {
	s, ns := mustNew(t), newSpace(t)
	ends := ns.mustPairs(t, 5000)
	data := stream(3000)
	for i := 0; i < len(ends); i += 100 {
		mustSend(t, ends[i], data[:i%len(data)])
		must(t, ends[i+1].await(i%len(data)))
	}
	before, began := s.passes.Load(), time.Now()
	results := mustTakeAll(t, s, ns, ends)
	took, passes := time.Since(began), s.passes.Load()-before
	for i, r := range results {
		var want []byte
		if i%100 == 1 {
			want = data[:(i-1)%len(data)]
		}
		if r.Err != nil || r.Conn.Meta.Cookie != ends[i].cookie || !bytes.Equal(r.Conn.Recv, want) {
			t.Fatalf("connection %d: %v", i, r.Err)
		}
	}
	t.Logf("%d connections in %v, %d passes", len(ends), took, passes)
	if want := int64((len(ends) + maxSlots - 1) / maxSlots); passes != want {
		t.Errorf("%d passes, want %d", passes, want)
	}
}
