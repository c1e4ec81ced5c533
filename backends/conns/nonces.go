package conns

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const noncesName = "nonces"

// nonceLine is the length of a line of the file: 16 bytes in hexadecimal and
// a newline. The first line is the number of the boot that the others are of.
const nonceLine = 2*16 + 1

// A nonces is the file of the numbers that were used once. Several daemons
// may have it open; who looks or writes has it locked.
type nonces struct {
	f    *os.File
	boot [16]byte
	used map[[16]byte]bool // what was read of the file, or written to it
	size int64             // of the file, as far as it was read
}

func openNonces(path string, boot [16]byte) (*nonces, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	return &nonces{f: f, boot: boot, used: map[[16]byte]bool{}}, nil
}

func (n *nonces) close() error { return n.f.Close() }

// use calls fn with nonce used up; if that fails, it is not. Returns
// errNonce if it was before.
func (n *nonces) use(nonce [16]byte, fn func() error) error {
	if err := flock(n.f); err != nil {
		return err
	}
	defer func() { _ = unix.Flock(int(n.f.Fd()), unix.LOCK_UN) }()
	if err := n.read(); err != nil {
		return err
	}
	if n.used[nonce] {
		return errNonce
	}
	if err := n.append(nonce); err != nil {
		return fmt.Errorf("write down that the image is used: %w", err)
	}
	if err := fn(); err != nil {
		return errors.Join(err, n.undo(nonce))
	}
	return nil
}

// read takes in what others have added. What is of an earlier boot is of no
// use any more: the file begins anew.
func (n *nonces) read() error {
	if n.size == 0 {
		head := make([]byte, nonceLine)
		_, err := n.f.ReadAt(head, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if string(head) != n.line(n.boot) {
			clear(n.used)
			if err := n.f.Truncate(0); err != nil {
				return err
			}
			return n.append(n.boot)
		}
		n.size = nonceLine
	}
	r := bufio.NewReader(io.NewSectionReader(n.f, n.size, 1<<62))
	line := make([]byte, nonceLine)
	for {
		if _, err := io.ReadFull(r, line); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil // what a crash left of a line is written over
			}
			return err
		}
		var nonce [16]byte
		if _, err := hex.Decode(nonce[:], line[:nonceLine-1]); err != nil {
			return fmt.Errorf("%s is damaged at offset %d: %w", n.f.Name(), n.size, unix.EIO)
		}
		n.used[nonce] = true
		n.size += nonceLine
	}
}

func (n *nonces) line(b [16]byte) string { return hex.EncodeToString(b[:]) + "\n" }

// append writes a line; it is on the disk when append returns.
func (n *nonces) append(b [16]byte) error {
	_, err := n.f.WriteAt([]byte(n.line(b)), n.size)
	if err == nil {
		err = n.f.Sync()
	}
	if err != nil {
		return errors.Join(err, n.f.Truncate(n.size))
	}
	n.size += nonceLine
	if b != n.boot {
		n.used[b] = true
	}
	return nil
}

// undo takes the last line back, nonce.
func (n *nonces) undo(nonce [16]byte) error {
	n.size -= nonceLine
	if err := n.f.Truncate(n.size); err != nil {
		n.size += nonceLine
		return err
	}
	delete(n.used, nonce)
	return nil
}

// lockPatience is how long another daemon may take to make a connection.
const lockPatience = 5 * time.Second

func flock(f *os.File) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR) && (!errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end)):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
