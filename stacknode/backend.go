package stacknode

import (
	"context"
	"io"
	"os"
)

// A Backend provides one network stack. Its methods are safe for concurrent
// use; after Close they return ErrClosed.
type Backend interface {
	// Socket opens a socket in this stack with the rights of caller. The
	// caller of Socket owns the file. It fails with ErrNotSupported if the
	// stack lacks the domain, otherwise with the errno of socket(2).
	Socket(ctx context.Context, caller *Caller, domain, typ, proto int) (*os.File, error)

	// Families tells which address families the stack has.
	Families() FamilySet

	// Close releases the stack after calls in progress end; channels see
	// end of file. Sockets that were handed out go on. Idempotent.
	io.Closer
}

// A ChannelServer answers further requests on a channel by itself, on the
// thread that makes the sockets. Without it a channel ends with its first
// socket.
type ChannelServer interface {
	// ServeChannel takes ownership of conn, also when it fails. release is
	// called once, when the channel is closed.
	ServeChannel(conn *os.File, caller *Caller, release func()) error
}

// A RunServer answers the socket calls of a process tree (stackfs run).
type RunServer interface {
	// ServeRun takes over the calls that arrive on run's listener, which
	// it borrows; it returns when run is registered. run.Ended is called
	// once if the error is nil.
	ServeRun(run *Run) error
}

// A Spawner makes listeners ones of several, one for each CPU; see
// STACKFS_IOC_LISTEN in stackfs.h.
type Spawner interface {
	// Spawn makes clones of sock, a socket of caller's that is about to
	// listen. It borrows sock; the caller of Spawn owns the result.
	Spawn(ctx context.Context, caller *Caller, sock *os.File) (*Spawned, error)
}

// Spawned is what the program of a listener gets.
type Spawned struct {
	Box  *os.File // clones wait in it
	Page *os.File // memory that the workers share
	Size int      // how many clones wait in the box at most
}

// Close closes both files.
func (s *Spawned) Close() error {
	err := s.Box.Close()
	if perr := s.Page.Close(); err == nil {
		err = perr
	}
	return err
}

// A Refuser refuses sockets that the caller would else make himself, where
// the stack is his own namespace.
type Refuser interface {
	// Refuses returns the errno that socket(2) is to have, or nil.
	Refuses(domain, typ, proto int) error
}

// A Maker makes some sockets for callers that could make them themselves,
// where the stack is their own namespace.
type Maker interface {
	// Makes tells whether that is so for a socket of the thread tid, which
	// waits.
	Makes(tid, domain, typ, proto int) bool
}

// A Drainer can refuse new sockets while its stack is being removed; the
// error is then ErrClosed.
type Drainer interface {
	Drain(on bool)
}

// A NetNamespace is a Backend whose sockets are in a network namespace.
type NetNamespace interface {
	// NetNS returns the namespace and the SO_NETNS_COOKIE of its sockets
	// (0 before Linux 5.14).
	NetNS() (id NSID, cookie uint64)
}

// An OwnNamespace is a Backend that a caller in the same network namespace
// needs no help for: it may call socket(2) itself.
type OwnNamespace interface {
	NetNamespace
	// Foreign tells whether callers of other namespaces are served too.
	Foreign() bool
}

// A Busier knows whether something still uses its stack.
type Busier interface {
	// Busy returns what uses the stack, nil if nothing does.
	Busy() ([]string, error)
}

// A Destroyer has made something (a namespace, a link) that outlives the
// daemon until it is destroyed.
type Destroyer interface {
	// Destroy removes what the backend made. Close it first.
	Destroy() error
}

// A Describer adds lines to the file status of its stack.
type Describer interface {
	Describe() []Line
}

// A Line is one "key: value" line of a status file.
type Line struct{ Key, Value string }

// A NameService has files by which names are resolved in this stack.
type NameService interface {
	// NameFiles maps base names below /etc ("resolv.conf", "hosts") to
	// their contents in this stack. Nil: as on the host.
	NameFiles() (map[string][]byte, error)
}

// A Counter knows how many channels and runs are open on its stack.
type Counter interface {
	Counts() (channels, runs int)
}
