package conns

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr/image"
)

// A Seals makes and knows the seals of this installation: images that it
// sealed were never anybody else's work. The key and the nonces that are used
// up are in a directory that outlives a boot and that several daemons share.
type Seals struct {
	dir string

	mu   sync.Mutex // guards the fields below; held while they are read or made
	key  []byte     // nil: not read yet
	boot [16]byte

	// usedMu guards nonces, and is held while a connection is made.
	usedMu sync.Mutex
	nonces *nonces // nil: not open yet
}

// NewSeals returns the seals that are kept in dir. Nothing is read or made
// before it is needed.
func NewSeals(dir string) *Seals { return &Seals{dir: dir} }

// Close closes the file of the nonces.
func (s *Seals) Close() error {
	s.usedMu.Lock()
	defer s.usedMu.Unlock()
	if s.nonces == nil {
		return nil
	}
	err := s.nonces.close()
	s.nonces = nil
	return err
}

const keyName = "seal.key"

// load reads or makes the key. It is called with s.mu held.
func (s *Seals) load() error {
	if s.key != nil {
		return nil
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	if err := privateDir(s.dir); err != nil {
		return err
	}
	key, err := readKey(filepath.Join(s.dir, keyName))
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(s.dir)
	}
	if err != nil {
		return fmt.Errorf("key of the seals: %w", err)
	}
	s.key, s.boot = key, boot
	return nil
}

// options returns what seals an image for uid: with a fresh nonce, in this
// boot.
func (s *Seals) options(uid uint32, netns uint64, stack string) (image.Options, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return image.Options{}, err
	}
	seal := &image.Seal{UID: uid, BootID: s.boot, NetNS: netns, Stack: stack}
	if _, err := rand.Read(seal.Nonce[:]); err != nil {
		return image.Options{}, err
	}
	return image.Options{Seal: seal, Key: s.key}, nil
}

// check tells whether img was sealed here, in this boot.
func (s *Seals) check(img *image.Image) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return err
	}
	if err := img.CheckSeal(s.key); err != nil {
		return err
	}
	if img.Seal.BootID != s.boot {
		return fmt.Errorf("the image was sealed before the machine was started anew: %w", errSealed)
	}
	return nil
}

// use calls fn and uses up the nonce of img, which check has passed: it is
// written down before fn is called, and taken back if that fails. Who dies in
// between has used it up.
func (s *Seals) use(img *image.Image, fn func() error) error {
	s.usedMu.Lock()
	defer s.usedMu.Unlock()
	if s.nonces == nil {
		n, err := openNonces(filepath.Join(s.dir, noncesName), img.Seal.BootID)
		if err != nil {
			return err
		}
		s.nonces = n
	}
	return s.nonces.use(img.Seal.Nonce, fn)
}

// privateDir makes dir if it is not there. Nobody but its owner may have put
// anything into it.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s must be a directory of the daemon's user that nobody else may write to: %w", dir, unix.EPERM)
	}
	return nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	key := make([]byte, image.KeySize+1)
	n, err := f.Read(key)
	if err != nil || n != image.KeySize {
		return nil, fmt.Errorf("%s has not %d bytes (remove it, and the images that were sealed under it are of no use): %w",
			path, image.KeySize, unix.EINVAL)
	}
	return key[:n], nil
}

// makeKey makes the key, or reads the one that another daemon was quicker to
// make. A crash leaves a whole key or none.
func makeKey(dir string) ([]byte, error) {
	key := make([]byte, image.KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, keyName+".*") // O_EXCL, 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, keyName)
	err = os.Link(f.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return readKey(path)
	}
	if err != nil {
		return nil, err
	}
	return key, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// bootID returns the number that the kernel drew at its start.
func bootID() (id [16]byte, err error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, err
	}
	n, err := hex.Decode(id[:], bytes.ReplaceAll(bytes.TrimSpace(b), []byte("-"), nil))
	if err != nil || n != len(id) {
		return id, fmt.Errorf("boot_id %q: %w", b, unix.EPROTO)
	}
	return id, nil
}
