package stacknode

import (
	"context"
	"net/netip"
	"os"
	"time"
)

// StateListen is the Conn.State of a listener.
const StateListen = "listen"

// KeyProcess is the key of a line of ConnDetails about a process that holds
// the socket: the only one of which there may be several.
const KeyProcess = "process"

// A Conn is one TCP socket of a stack, as sock_diag(7) shows it.
type Conn struct {
	Cookie uint64 // SO_COOKIE, which the kernel never gives to another socket
	State  string // by the name that ss(8) uses: "established", "time-wait", "listen"
	Family int    // AFInet or AFInet6
	Local  netip.AddrPort
	Remote netip.AddrPort // invalid where there is none
	UID    uint32         // owner of the socket
	Inode  uint64         // of the socket's file; 0: it has none (not accepted yet, or closed by its owner)

	// RecvQ and SendQ are bytes; of a listener the connections in its
	// accept queue and the backlog.
	RecvQ, SendQ uint32
}

// A ConnTable is a Backend that knows the TCP sockets of its stack.
type ConnTable interface {
	// Conns lists every TCP socket, listeners too, in one pass.
	Conns(ctx context.Context) ([]Conn, error)

	// Conn finds one by its cookie. Returns ErrNoConn if there is none (any
	// more).
	Conn(ctx context.Context, cookie uint64) (*Conn, error)

	// ConnDetails tells what is known of one: the lines of its file status.
	// With owner the processes that hold it are among them.
	ConnDetails(ctx context.Context, cookie uint64, owner bool) ([]Line, error)
}

// A Checkpointer is a ConnTable whose connections can be saved, held and
// restored. Each method checks that the caller may: over every process that
// holds the socket he needs what pidfd_getfd(2) asks for, else the error is a
// *HolderError.
type Checkpointer interface {
	ConnTable

	// Checkpoint returns the image of a connection, which goes on.
	Checkpoint(ctx context.Context, caller *Caller, cookie uint64) ([]byte, error)

	// Pause freezes the processes that hold a connection and keeps its
	// packets away, until Resume, Discard, the end of limit (0: none), or
	// the end of the daemon. While it lasts, Checkpoint gives an image that
	// is final. Returns ErrPaused if it is paused already.
	Pause(ctx context.Context, caller *Caller, cookie uint64, limit time.Duration) error

	// Resume ends a Pause. Returns ErrNotPaused if there is none.
	Resume(ctx context.Context, caller *Caller, cookie uint64) error

	// Discard ends a connection without a packet to the peer; its owner
	// sees ECONNABORTED. A paused one is thereby resumed.
	Discard(ctx context.Context, caller *Caller, cookie uint64) error

	// Abort ends a connection with a reset to the peer.
	Abort(ctx context.Context, caller *Caller, cookie uint64) error

	// Restore makes a socket from an image, with the rights of caller. The
	// caller of Restore owns the file.
	Restore(ctx context.Context, caller *Caller, image []byte) (*os.File, error)
}
