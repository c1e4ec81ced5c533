package msocket

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/uapi"
)

// An ask is what socket(2) is asked for.
type ask struct{ domain, typ, proto int }

// plain tells whether channels make such sockets: see struct
// stackfs_chan_req.
func (a ask) plain() bool {
	if a.domain != unix.AF_INET && a.domain != unix.AF_INET6 {
		return false
	}
	switch a.typ &^ (unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK) {
	case unix.SOCK_STREAM:
		return a.proto == 0 || a.proto == unix.IPPROTO_TCP || a.proto == unix.IPPROTO_MPTCP
	case unix.SOCK_DGRAM:
		return a.proto == 0 || a.proto == unix.IPPROTO_UDP
	}
	return false
}

// errDead is a channel without daemon.
var errDead = errors.New("the channel is closed")

// A channel is an open connection to the daemon for one stack, or a place
// for one (conn is nil). One goroutine uses it at a time.
type channel struct {
	conn *os.File
	seq  uint32
}

// ask asks for a socket on an open channel. Returns errDead if there is no
// daemon at the other end, ESTALE if the ioctl is to be used; in both cases
// the channel is closed.
func (c *channel) ask(name string, a ask) (*os.File, error) {
	if c.seq++; c.seq == 0 { // 0 is the answer to the ioctl
		c.seq = 1
	}
	req := uapi.ChanReq{Seq: c.seq, Domain: int32(a.domain), Type: int32(a.typ), Protocol: int32(a.proto)}
	msg, err := req.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if err := sendRequest(c.conn, msg); err != nil {
		c.close()
		return nil, errDead
	}
	sock, err := c.receive(name)
	if errors.Is(err, unix.ESTALE) {
		c.close() // opened for another user than we are now
	}
	return sock, err
}

// receive takes the answer to the request with the channel's seq.
func (c *channel) receive(name string) (*os.File, error) {
	for {
		rep, sock, err := receiveReply(c.conn, name)
		if errors.Is(err, unix.EMFILE) {
			return nil, err // the answer was for us; its socket found no place
		}
		if err != nil {
			c.close()
			return nil, errDead
		}
		if rep.Seq != c.seq {
			if sock != nil {
				sock.Close()
			}
			continue
		}
		if rep.Flags&uapi.ChanClosed != 0 {
			c.close()
		}
		if rep.Error == 0 {
			return sock, nil
		}
		if sock != nil {
			sock.Close()
		}
		return nil, nodeError(syscall.Errno(rep.Error))
	}
}

func (c *channel) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
