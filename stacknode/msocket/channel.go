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
		d, err := receiveReply(c.conn, name)
		if errors.Is(err, unix.EMFILE) {
			return nil, err // the answer was for us; its socket found no place
		}
		if err != nil {
			c.close()
			return nil, errDead
		}
		if d.Seq != c.seq {
			d.drop()
			continue
		}
		if d.Flags&uapi.ChanClosed != 0 {
			c.close()
		}
		if d.Error != 0 {
			return nil, nodeError(syscall.Errno(d.Error))
		}
		if d.next != nil {
			d.next.Close() // not asked for
		}
		return d.sock, nil
	}
}

// start takes the answer to an ioctl on conn, which it closes. The channel
// for further sockets comes with it, if the stack serves one and there was
// a descriptor left.
func (c *channel) start(conn *os.File, name string) (*os.File, error) {
	defer conn.Close()
	d, err := receiveReply(conn, name)
	switch {
	case errors.Is(err, unix.EMFILE):
		return nil, err
	case err != nil:
		return nil, errDead
	case d.Error != 0:
		return nil, nodeError(syscall.Errno(d.Error))
	case d.Flags&uapi.ChanClosed == 0:
		c.conn, c.seq = d.next, 0
	case d.next != nil:
		d.next.Close()
	}
	return d.sock, nil
}

func (c *channel) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
