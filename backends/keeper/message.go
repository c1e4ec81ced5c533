package keeper

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A message goes between daemon and keeper, with at most one descriptor.
type message struct {
	Op   string          // opAdd, ...
	ID   uint64          `json:",omitempty"` // of the run
	Data json.RawMessage `json:",omitempty"` // the daemon's own record of it
	Dir  string          `json:",omitempty"` // opMount, opServer
	Mnt  int             `json:",omitempty"` // opMount: id in mountinfo
}

const (
	opAdd    = "add"    // daemon to keeper: hold this listener
	opDel    = "del"    // daemon to keeper: let go of it
	opServer = "server" // daemon to keeper: wait here for the next daemon
	opMount  = "mount"  // daemon to keeper: this is to be detached if I die
	opClean  = "clean"  // daemon to keeper: I unmounted
	opRun    = "run"    // keeper to next daemon: a listener
	opEnd    = "end"    // keeper to next daemon: that was all
	opTaken  = "taken"  // next daemon to keeper: I serve them now
)

const maxMessage = 64 << 10

func send(conn *os.File, m message, f *os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	for {
		err = unix.Sendmsg(int(conn.Fd()), b, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// receive reads one message; the caller owns the file, which may be nil.
// Returns unix.EPIPE at end of file.
func receive(conn *os.File) (message, *os.File, error) {
	var m message
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var err error
	for {
		n, oobn, _, _, err = unix.Recvmsg(int(conn.Fd()), b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return m, nil, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return m, nil, unix.EPIPE
	}
	var f *os.File
	if oobn > 0 {
		cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return m, nil, err
		}
		for _, c := range cmsgs {
			fds, err := unix.ParseUnixRights(&c)
			if err != nil {
				continue
			}
			for _, fd := range fds {
				f = os.NewFile(uintptr(fd), "passed")
			}
		}
	}
	if err := json.Unmarshal(b[:n], &m); err != nil {
		if f != nil {
			f.Close()
		}
		return m, nil, fmt.Errorf("message of the keeper: %w", err)
	}
	return m, f, nil
}
