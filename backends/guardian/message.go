package guardian

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/peer"
)

// A Request says which connection is asked for, and for whom: who may not
// trace a process that holds it gets a *stacknode.HolderError.
type Request struct {
	Cookie, Inode uint64
	Tracer        peer.Tracer
}

// A message goes between daemon and guardian, with at most one descriptor.
type message struct {
	Op      string
	ID      uint64        `json:",omitempty"` // of the operation that it is about
	Request *Request      `json:",omitempty"` // opSave, opHold
	Limit   time.Duration `json:",omitempty"` // opHold; 0: none
	Stood   time.Duration `json:",omitempty"` // opSaved: how long the owner was frozen for it
	Error   *wireError    `json:",omitempty"` // opFailed, opEnd
	Prior   []byte        `json:",omitempty"` // in a box: a soccr.Prior
}

// Daemon to guardian. The first two begin an operation.
const (
	opSave    = "save"
	opHold    = "hold"
	opAgain   = "again"   // save what is held
	opResume  = "resume"  // end the hold
	opDiscard = "discard" // end the connection, and the hold
	opCancel  = "cancel"  // end the operation, whatever it is at
)

// Guardian to daemon. The last one ends an operation.
const (
	opLife   = "life"   // with the lifeline of a thread that traces, see freeze.Announce
	opBox    = "box"    // with a box, from which to put everything back
	opHeld   = "held"   // the connection is held
	opSaved  = "saved"  // with a memfd that has the connection
	opFailed = "failed" // an order was not carried out
	opEnd    = "end"    // everything is put back, or nothing was done
)

const maxMessage = 64 << 10

// send sends a message. flags: 0, or unix.MSG_DONTWAIT.
func send(conn *os.File, m message, f *os.File, flags int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if f == nil {
		return sendFD(conn, b, nil, flags)
	}
	return control(f, func(fd int) error { return sendFD(conn, b, unix.UnixRights(fd), flags) })
}

func sendFD(conn *os.File, b, oob []byte, flags int) error {
	return control(conn, func(fd int) error {
		for {
			err := unix.Sendmsg(fd, b, oob, nil, unix.MSG_NOSIGNAL|flags)
			if err != unix.EINTR {
				return os.NewSyscallError("sendmsg", err)
			}
		}
	})
}

// receive reads one message; the caller owns the file, which may be nil. It
// occupies a thread until there is one. Returns unix.EPIPE at end of file.
func receive(conn *os.File) (m message, f *os.File, err error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(int(conn.Fd()), b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	runtime.KeepAlive(conn)
	if err != nil {
		return m, nil, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return m, nil, unix.EPIPE
	}
	if f, err = passed(oob[:oobn]); err != nil {
		return m, nil, err
	}
	if err := json.Unmarshal(b[:n], &m); err != nil {
		if f != nil {
			f.Close()
		}
		return m, nil, fmt.Errorf("message of the guardian: %w", err)
	}
	return m, f, nil
}

// passed returns the descriptor in a control message, nil if there is none.
func passed(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var f *os.File
	for i := range cmsgs {
		fds, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			return f, err
		}
		for _, fd := range fds {
			f = os.NewFile(uintptr(fd), "passed")
		}
	}
	return f, nil
}

// control calls fn with the descriptor of f, which cannot be closed meanwhile.
func control(f *os.File, fn func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) { err = fn(int(fd)) })
	if cerr != nil {
		return cerr
	}
	return err
}

// socketpair returns both ends of a pair for messages.
func socketpair() (a, b *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(pair[0]), "guardian"), os.NewFile(uintptr(pair[1]), "daemon"), nil
}
