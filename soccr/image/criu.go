package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	"google.golang.org/protobuf/proto"

	"github.com/stackfs/stackfs/soccr"
)

// A Dumped is one TCP connection of a dump that criu has made.
type Dumped struct {
	File  string // "tcp-stream-1a2b.img"
	Inode uint32 // the number in that name
	NetNS uint32 // CRIU's number of the network namespace; 0: there is one only
	// Local and Remote are those of files.img, invalid for a file that it
	// does not name.
	Local, Remote netip.AddrPort
	// Conn is the connection; nil if Err says why there is none.
	Conn *soccr.Conn
	Err  error
}

// The largest files of a dump that are read, in bytes. A queue is limited to
// 2 GiB by the kernel and to a few MiB by the settings of nearly everybody.
const (
	maxFiles  = 256 << 20
	maxStream = 1 << 30
)

// ReadCRIU reads the TCP connections of a directory that criu dump has
// written with --tcp-established, in the order of its files.img. One that
// cannot be read is in the list with its error. CRIU keeps neither the
// congestion control nor the time and the owner: Meta.Time is that of the
// file. The words of an address are those of a little-endian machine, as CRIU
// writes them on one.
func ReadCRIU(dir string) ([]Dumped, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	list, err := readDump(os.DirFS(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problemf(fs.ErrNotExist, "%s: no dump of CRIU: it has no files.img", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return list, nil
}

func readDump(fsys fs.FS) ([]Dumped, error) {
	b, _, err := readRegular(fsys, "files.img", maxFiles)
	if err != nil {
		return nil, err
	}
	var list []Dumped
	named := map[string]bool{}
	err = eachFile(b, func(isk *sk_inet.InetSkEntry) {
		d := dumped(isk)
		named[d.File] = true
		if d.Err == nil {
			d.Conn, d.Err = d.read(fsys, isk)
		}
		list = append(list, d)
	})
	if err != nil {
		return nil, fmt.Errorf("files.img: %w", err)
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if inode, ok := streamInode(e.Name()); ok && !named[e.Name()] {
			list = append(list, Dumped{File: e.Name(), Inode: inode,
				Err: problemf(ErrDamaged, "files.img has no socket with the inode %d (0x%x)", inode, inode)})
		}
	}
	return list, nil
}

// streamInode returns the number in the name of a tcp-stream image.
func streamInode(name string) (uint32, bool) {
	hex, ok := strings.CutPrefix(name, "tcp-stream-")
	hex, img := strings.CutSuffix(hex, ".img")
	n, err := strconv.ParseUint(hex, 16, 32)
	return uint32(n), ok && img && err == nil
}

// readRegular reads a file of at most limit bytes. Anything but a regular
// file could block.
func readRegular(fsys fs.FS, name string, limit int64) ([]byte, fs.FileInfo, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, problemf(ErrDamaged, "%s is no regular file", name)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(b)) > limit {
		return nil, nil, problemf(ErrDamaged, "%s has more than %d MiB", name, limit>>20)
	}
	return b, info, nil
}

// eachFile calls fn for every connected TCP socket of a files.img.
func eachFile(b []byte, fn func(*sk_inet.InetSkEntry)) error {
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != magicCommon || binary.LittleEndian.Uint32(b[4:]) != magicFiles {
		return damagedf(0, "no CRIU image of the kind FILES")
	}
	for off := 8; off < len(b); {
		if len(b)-off < 4 {
			return damagedf(off, "the file ends within the length of an entry: cut off?")
		}
		size := binary.LittleEndian.Uint32(b[off:])
		off += 4
		if size > maxEntry {
			return damagedf(off-4, "an entry of %d bytes: at most %d are taken", size, maxEntry)
		}
		if int(size) > len(b)-off {
			return damagedf(off-4, "the entry has %d bytes, but only %d follow: cut off?", size, len(b)-off)
		}
		isk, err := inetSocket(b[off : off+int(size)])
		if err != nil {
			return damagedf(off, "the entry is no file_entry: %s", why(err))
		}
		if isConnection(isk) {
			fn(isk)
		}
		off += int(size)
	}
	return nil
}

// inetSocket returns the inet_sk_entry of a file_entry, nil for a file of
// another kind. Package fdinfo of go-criu would read those too, and needs the
// types of two dozen packages for it.
func inetSocket(entry []byte) (*sk_inet.InetSkEntry, error) {
	const fieldIsk = 4
	content, found, err := fieldBytes(entry, fieldIsk)
	if err != nil || !found {
		return nil, err
	}
	isk := &sk_inet.InetSkEntry{}
	return isk, proto.Unmarshal(content, isk)
}

// isConnection is how CRIU tells for which sockets it has a tcp-stream image.
func isConnection(isk *sk_inet.InetSkEntry) bool {
	return isk != nil && isk.GetType() == syscall.SOCK_STREAM && isk.GetProto() == syscall.IPPROTO_TCP && isk.GetDstPort() != 0
}

// dumped makes the entry of a socket, without its connection.
func dumped(isk *sk_inet.InetSkEntry) Dumped {
	d := Dumped{File: fmt.Sprintf("tcp-stream-%x.img", isk.GetIno()), Inode: isk.GetIno(), NetNS: isk.GetNsId()}
	if d.Local, d.Err = criuAddress(isk, isk.GetSrcAddr(), isk.GetSrcPort()); d.Err != nil {
		return d
	}
	d.Remote, d.Err = criuAddress(isk, isk.GetDstAddr(), isk.GetDstPort())
	return d
}

// read makes the connection from the tcp-stream image and isk.
func (d *Dumped) read(fsys fs.FS, isk *sk_inet.InetSkEntry) (*soccr.Conn, error) {
	b, info, err := readRegular(fsys, d.File, maxStream)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the dump was made without --tcp-established, or with --tcp-close: %w", err)
	}
	if err != nil {
		return nil, err
	}
	i, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.File, err)
	}
	c := i.Conn
	if !i.Foreign { // one of ours, put there
		socket := &soccr.Conn{}
		fillSocket(socket, isk)
		if err := d.accepts(socket, c); err != nil {
			return nil, err
		}
		return c, nil
	}
	fillSocket(c, isk)
	c.Local, c.Remote = d.Local, d.Remote
	c.Meta = soccr.Meta{Inode: uint64(d.Inode), Time: info.ModTime(), Method: "criu"}
	if err := Validate(c); err != nil {
		return nil, fmt.Errorf("%s and files.img: %w", d.File, err)
	}
	return c, nil
}
