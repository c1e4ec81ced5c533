package conns

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// tableKept is how long a table of the connections is kept after it was last
// of use.
const tableKept = time.Minute

// diagPatience is how long sock_diag may take for a table, or a look. It never
// takes the lock of a socket for that, but see inTurn.
const diagPatience = 10 * time.Second

// A table is the TCP sockets of a namespace as they were once. What is found
// in it is good for asking the kernel about that socket and no other.
type table struct {
	entries []entry // by cookie, each once
	links   links
}

// find returns the entry of a cookie, nil if there is none.
func (t *table) find(cookie uint64) *entry {
	i, ok := slices.BinarySearchFunc(t.entries, cookie, func(e entry, c uint64) int { return cmp.Compare(e.cookie, c) })
	if !ok {
		return nil
	}
	return &t.entries[i]
}

// A tables keeps the table that was made last.
type tables struct {
	do     func(func() error) error // runs a function in the namespace
	tags   *Tags                    // nil: there are none
	want   Tagged                   // which sockets are the stack's
	passes passes[struct{}, *table]
	looks  passes[*entry, map[*entry]look]

	mu   sync.Mutex // guards the fields below
	last *table     // nil: none is kept
	drop *time.Timer
	size int // entries of the last one, to make room for the next
}

func newTables(do func(func() error) error) *tables {
	t := &tables{do: do}
	t.passes.run = func([]struct{}) (*table, error) { return t.fresh() }
	t.looks.run = t.look
	t.passes.patience, t.looks.patience = diagPatience, diagPatience
	return t
}

// A look is what the kernel says of one socket.
type look struct {
	entry
	err error
}

// look asks for each socket by itself, on one visit to the namespace.
func (t *tables) look(asked []*entry) (map[*entry]look, error) {
	seen := make(map[*entry]look, len(asked))
	return seen, t.do(func() error {
		c, err := openChannel()
		if err != nil {
			return err
		}
		defer c.Close()
		for _, e := range asked {
			now, _, err := c.get(e)
			seen[e] = look{now, err}
		}
		return nil
	})
}

// now returns a table that is made now.
func (t *tables) now(ctx context.Context) (*table, error) { return t.passes.share(ctx, struct{}{}) }

// fresh makes a table and keeps it.
func (t *tables) fresh() (*table, error) {
	t.mu.Lock()
	size := t.size
	t.mu.Unlock()
	// A quarter more than last time: the array is not made twice.
	tab := &table{entries: make([]entry, 0, size+size/4), links: links{}}
	err := t.do(func() error {
		return dump(t.tags, func(e entry) {
			if !t.want.belongs(&e) {
				return
			}
			tab.links.learn(&e)
			tab.entries = append(tab.entries, e)
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(tab.entries, func(a, b entry) int { return cmp.Compare(a.cookie, b.cookie) })
	tab.entries = slices.CompactFunc(tab.entries, func(a, b entry) bool { return a.cookie == b.cookie })
	t.keep(tab)
	return tab, nil
}

// keep makes tab the table that is kept; nil: the one that is, for longer.
func (t *tables) keep(tab *table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tab != nil {
		t.last, t.size = tab, len(tab.entries)
	}
	if t.drop == nil {
		t.drop = time.AfterFunc(tableKept, t.forget)
		return
	}
	t.drop.Reset(tableKept)
}

func (t *tables) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = nil
}

// close ends the timer.
func (t *tables) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = nil
	if t.drop != nil {
		t.drop.Stop()
	}
}

// kept returns the entry of a cookie in the table that is kept, and the
// table; nil if there is none.
func (t *tables) kept(cookie uint64) (*entry, *table) {
	t.mu.Lock()
	tab := t.last
	t.mu.Unlock()
	if tab == nil {
		return nil, nil
	}
	return tab.find(cookie), tab
}

// A socket is one TCP socket as it is now.
type socket struct {
	entry
	attrs []byte // of sock_diag, as far as they were asked for
	links links
}

// find returns the socket of a cookie as it is now, with the attributes that
// are asked for. Returns stacknode.ErrNoConn if there is none.
func (t *tables) find(ctx context.Context, cookie uint64, attrs ...uint16) (*socket, error) {
	if e, tab := t.kept(cookie); e != nil {
		s, err := t.exactly(ctx, e, tab.links, attrs...)
		if err == nil {
			t.keep(nil)
			return s, nil
		}
		if !isGone(err) {
			return nil, err
		}
		// It ended, or others have its addresses too: listeners of one
		// SO_REUSEPORT group, of which the kernel shows one.
	}
	tab, err := t.now(ctx)
	if err != nil {
		return nil, err
	}
	e := tab.find(cookie)
	if e == nil {
		return nil, stacknode.ErrNoConn
	}
	if len(attrs) == 0 {
		return &socket{entry: *e, links: tab.links}, nil
	}
	s, err := t.exactly(ctx, e, tab.links, attrs...)
	if isGone(err) {
		return &socket{entry: *e, links: tab.links}, nil
	}
	return s, err
}

// exactly asks the kernel for the socket that e was made of. With attributes
// the kernel may wait for the lock of the socket: then nobody else waits for
// the answer.
func (t *tables) exactly(ctx context.Context, e *entry, l links, attrs ...uint16) (*socket, error) {
	s := &socket{links: l}
	if len(attrs) > 0 {
		err := t.do(func() (err error) {
			s.entry, s.attrs, err = channel(nil).get(e, attrs...)
			return err
		})
		return s, err
	}
	// Not interrupted: a look takes no longer than a system call does, and
	// open(2) would fail with EINTR for a signal that it needs not notice.
	seen, err := t.looks.share(context.WithoutCancel(ctx), e)
	if err != nil {
		return nil, err
	}
	s.entry = seen[e].entry
	s.tagged = e.tagged
	return s, seen[e].err
}

// isGone tells whether sock_diag says that there is no such socket.
func isGone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) }
