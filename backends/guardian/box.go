package guardian

import (
	"encoding/gob"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// newBox returns a box with a duplicate of sock and how it was before. The
// caller closes it, and with it what is in it.
func newBox(sock *os.File, prior soccr.Prior) (*os.File, error) {
	wire, err := prior.MarshalBinary()
	if err != nil {
		return nil, err
	}
	in, box, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := send(in, message{Op: opBox, Prior: wire}, sock, unix.MSG_DONTWAIT); err != nil {
		box.Close()
		return nil, fmt.Errorf("pack the socket: %w", err)
	}
	return box, nil
}

// A box is the daemon's end of one.
type box struct {
	file  *os.File
	sock  *os.File // what was in it, once it is unpacked
	prior soccr.Prior
}

// putBack puts the socket back as it was. It may be called again.
func (b *box) putBack() error {
	if b.sock == nil {
		m, sock, err := receive(b.file)
		if err != nil {
			return fmt.Errorf("unpack the socket: %w", err)
		}
		if sock == nil {
			return fmt.Errorf("unpack the socket: it is not there: %w", unix.EBADMSG)
		}
		b.sock = sock
		if err := b.prior.UnmarshalBinary(m.Prior); err != nil {
			return err
		}
	}
	return control(b.sock, b.prior.PutBack)
}

// close also lets go of what is in the box. Of nil it does nothing.
func (b *box) close() {
	if b == nil {
		return
	}
	b.file.Close()
	if b.sock != nil {
		b.sock.Close()
	}
}

// writeConn returns a memfd with the connection, which the caller closes. It
// is no part of a message, since a queue can have many megabytes.
func writeConn(c *soccr.Conn) (*os.File, error) {
	fd, err := unix.MemfdCreate("stackfs-connection", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "connection")
	if err = gob.NewEncoder(f).Encode(c); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write the connection: %w", err)
	}
	return f, nil
}

// readConn is the inverse of writeConn. It closes f.
func readConn(f *os.File) (*soccr.Conn, error) {
	if f == nil {
		return nil, fmt.Errorf("read the connection: it is not there: %w", unix.EBADMSG)
	}
	defer f.Close()
	var c soccr.Conn
	if err := gob.NewDecoder(f).Decode(&c); err != nil {
		return nil, fmt.Errorf("read the connection: %w", err)
	}
	return &c, nil
}
