package conns

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
)

// someConn returns a connection that an image can have.
func someConn(local string) *soccr.Conn {
	at := netip.MustParseAddrPort(local)
	return &soccr.Conn{
		Data:   soccr.Data{State: soccr.Established, InqSeq: 1, OutqSeq: 1, MSSClamp: 1460},
		Family: unix.AF_INET, Local: at, Remote: netip.MustParseAddrPort("192.0.2.2:4711"),
		Options: soccr.Options{},
	}
}

func mustImage(t *testing.T, c *soccr.Conn, opts image.Options) *image.Image {
	t.Helper()
	b, err := image.Encode(c, opts)
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// mustSeal returns an image that s sealed.
func mustSeal(t *testing.T, s *Seals) *image.Image {
	t.Helper()
	opts, err := s.options(1000, 7, "lab")
	if err != nil {
		t.Fatal(err)
	}
	return mustImage(t, someConn("192.0.2.1:5000"), opts)
}

func TestSealIsOfThisInstallationAndBoot(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "when-needed")
	s := NewSeals(dir)
	img := mustSeal(t, s)
	if err := s.check(img); err != nil {
		t.Errorf("the same daemon: %v", err)
	}
	if err := NewSeals(dir).check(img); err != nil {
		t.Errorf("a later daemon: %v", err)
	}
	if err := NewSeals(t.TempDir()).check(img); !errors.Is(err, unix.EPERM) {
		t.Errorf("another installation: got %v, want EPERM", err)
	}
	opts, err := s.options(1000, 7, "lab")
	if err != nil {
		t.Fatal(err)
	}
	opts.Seal.BootID[0]++
	if err := s.check(mustImage(t, someConn("192.0.2.1:5000"), opts)); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "started anew") {
		t.Errorf("another boot: got %v, want EPERM", err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, keyName): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode() != mode {
			t.Errorf("%s: got %v, %v, want %v", path, st.Mode(), err, mode)
		}
	}
}

func TestKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			s := NewSeals(dir)
			opts, err := s.options(0, 1, "lab")
			if err != nil {
				t.Error(err)
			}
			keys[i] = opts.Key
		})
	}
	wg.Wait()
	for _, k := range keys {
		if !bytes.Equal(k, keys[0]) || len(k) != image.KeySize {
			t.Errorf("got %x and %x", k, keys[0])
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("got %v, %v, want the key and nothing else", names, err)
	}
}

func TestKeyThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "short", strings.Repeat("x", 33)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, keyName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewSeals(dir).options(0, 1, "lab"); err == nil {
			t.Errorf("a key of %d bytes: no error", len(content))
		}
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := NewSeals(dir).options(0, 1, "lab"); !errors.Is(err, unix.EPERM) {
		t.Errorf("a directory that anybody may write to: got %v, want EPERM", err)
	}
}

func TestNonceIsUsedOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, other := NewSeals(dir), NewSeals(dir)
	defer s.Close()
	defer other.Close()
	img, second := mustSeal(t, s), mustSeal(t, s)
	nothing := func() error { return nil }
	broken := errors.New("broken")
	if err := s.use(img, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a restore that fails: got %v", err)
	}
	if err := other.use(img, nothing); err != nil {
		t.Errorf("after one that failed: %v", err)
	}
	for name, seals := range map[string]*Seals{"the same": other, "another daemon": s, "a later daemon": NewSeals(dir)} {
		err := seals.use(img, func() error {
			t.Errorf("%s: a connection was made", name)
			return nil
		})
		if !errors.Is(err, errNonce) || !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: got %v, want errNonce", name, err)
		}
	}
	if err := s.use(second, nothing); err != nil {
		t.Errorf("another image: %v", err)
	}
}

// The nonce is on the disk before there is a connection: a daemon that dies
// then does not give a second one away.
func TestNonceIsWrittenBeforeTheConnectionIsMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := NewSeals(dir)
	img := mustSeal(t, s)
	var lines []string
	if err := s.use(img, func() error {
		b, err := os.ReadFile(filepath.Join(dir, noncesName))
		lines = strings.Fields(string(b))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	n := &nonces{}
	if len(lines) != 2 || !slices.Contains(lines, strings.TrimSpace(n.line(img.Seal.Nonce))) {
		t.Errorf("got %q", lines)
	}
}

func TestNoncesOfAnEarlierBootAreDropped(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), noncesName)
	use := func(boot, nonce byte) error {
		n, err := openNonces(path, [16]byte{boot})
		if err != nil {
			t.Fatal(err)
		}
		defer n.close()
		return n.use([16]byte{nonce}, func() error { return nil })
	}
	for _, tt := range []struct {
		boot, nonce byte
		used        bool
	}{{1, 1, false}, {1, 2, false}, {1, 1, true}, {2, 1, false}, {2, 1, true}, {2, 2, false}} {
		if err := use(tt.boot, tt.nonce); errors.Is(err, errNonce) != tt.used || err != nil && !tt.used {
			t.Errorf("boot %d, nonce %d: got %v", tt.boot, tt.nonce, err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || len(b) != 3*nonceLine {
		t.Errorf("got %q, %v, want two nonces", b, err)
	}
}

func TestNoncesAfterACrash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), noncesName)
	boot, nonce := [16]byte{1}, [16]byte{2}
	n, err := openNonces(path, boot)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	whole := n.line(boot) + n.line([16]byte{3})
	if err := os.WriteFile(path, []byte(whole+n.line([16]byte{4})[:9]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.use(nonce, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != whole+n.line(nonce) {
		t.Errorf("got %q, %v", b, err)
	}
	if err := n.use([16]byte{3}, func() error { return nil }); !errors.Is(err, errNonce) {
		t.Errorf("what was there before: got %v", err)
	}
	// Not what we wrote: then nobody can tell what was used.
	bad := n.line(boot) + strings.Repeat("z", nonceLine-1) + "\n"
	if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh, err := openNonces(path, boot)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.close()
	if err := fresh.use(nonce, func() error { return nil }); !errors.Is(err, unix.EIO) {
		t.Errorf("a damaged file: got %v, want EIO", err)
	}
}
