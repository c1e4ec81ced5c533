package conns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/peer"
)

// How long the lock of a socket is waited for.
const (
	detailsPatience = time.Second      // to say more about a connection
	abortPatience   = 10 * time.Second // to end one
)

// asksPerUser is how many requests may wait for the locks of one user's
// sockets at a time. Each is a thread of the daemon.
const asksPerUser = 64

// errLocked is about a socket whose owner keeps its lock, by a send from
// memory that never arrives for instance.
var errLocked = fmt.Errorf("the socket is locked by its owner: %w", syscall.ETIMEDOUT)

// A locks makes the requests for which the kernel takes the lock of a socket.
// Its owner can keep that, and the thread that asks with it, for as long as he
// likes; who asked need not wait for that, and the threads do not pile up.
type locks struct {
	lanes sync.Map // uid of the socket -> chan struct{}, with one element for each request
}

// ask calls fn, which takes the lock of a socket of uid's. Returns errLocked
// if that takes longer than patience, and an error of ctx; then fn goes on.
func ask[T any](ctx context.Context, l *locks, uid uint32, patience time.Duration, fn func() (T, error)) (T, error) {
	type result struct {
		got T
		err error
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	v, _ := l.lanes.LoadOrStore(uid, make(chan struct{}, asksPerUser))
	lane := v.(chan struct{})
	done := make(chan result, 1)
	begin := (chan<- struct{})(lane)
	for {
		var none T
		select {
		case begin <- struct{}{}:
			begin = nil // once
			go func() {
				defer func() { <-lane }()
				got, err := fn()
				done <- result{got, err}
			}()
		case r := <-done:
			return r.got, r.err
		case <-late.C:
			return none, errLocked
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
}

// inTurn tells whether the kernel answers all requests to sock_diag of the
// whole machine in turn, as those before 6.9 do. One that waits for the lock of
// a socket then keeps all others waiting: none is made for which it would.
var inTurn = sync.OnceValue(func() bool {
	var u unix.Utsname
	var major, minor int
	if err := unix.Uname(&u); err != nil {
		return true
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return true
	}
	return major < 6 || major == 6 && minor < 9
})

// errNoHolder is about a socket of which no process has a descriptor now.
var errNoHolder = errors.New("no process has a descriptor of it")

// byHolder calls fn with a descriptor of the socket: a copy of one that its
// owner has. Errors: errNoHolder, and those of fn.
func (s *Stack) byHolder(ctx context.Context, sock *socket, fn func(fd int) error) error {
	found, err := s.env.Holders.find(ctx, uint64(sock.inode))
	if err != nil {
		return err
	}
	for _, h := range found[uint64(sock.inode)] {
		f, err := peer.FetchSocket(h, sock.cookie)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBADF) {
			continue
		}
		if err != nil {
			return err
		}
		defer f.Close()
		return control(f, fn)
	}
	return errNoHolder
}

// infoOfHolder returns the struct tcp_info of a socket by a descriptor of its
// owner's: waiting for the lock keeps nobody else waiting. Errors: errNoHolder.
func (s *Stack) infoOfHolder(ctx context.Context, sock *socket) (info []byte, err error) {
	err = s.byHolder(ctx, sock, func(fd int) (err error) {
		info, err = rawTCPInfo(fd)
		return err
	})
	return info, err
}
