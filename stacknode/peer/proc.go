package peer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// A Proc is a thread that waits for us: what is read through it is of that
// thread or fails with ESRCH.
type Proc struct {
	tid   int
	pidfd *os.File // of the thread; nil where the kernel tells no ids by it
	ids   IDs      // with pidfd

	mu  sync.Mutex // guards dir
	dir *os.File   // /proc/TID, once it is needed
}

// Open refers to the thread tid. The caller closes the Proc. Returns ESRCH
// or ENOENT if there is no such thread.
func Open(tid int) (*Proc, error) {
	if tid <= 0 {
		return nil, fmt.Errorf("the caller is not visible in the daemon's pid namespace: %w", errNoProcess)
	}
	p := &Proc{tid: tid}
	var err error
	if p.pidfd, p.ids, err = openThread(tid); err != nil {
		return nil, fmt.Errorf("thread %d: %w", tid, err)
	}
	if p.pidfd == nil {
		if _, err := p.open(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// open returns /proc/TID. With a pidfd that still answers afterwards it is
// that thread's.
func (p *Proc) open() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir != nil {
		return p.dir, nil
	}
	dir, err := openProc(p.tid)
	if err == nil && p.pidfd != nil {
		if _, err = threadIDs(p.pidfd); err != nil {
			dir.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("thread %d: %w", p.tid, err)
	}
	p.dir = dir
	return dir, nil
}

// Close ends the Proc and what [Proc.Caller] returned of it.
func (p *Proc) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.pidfd != nil {
		err = p.pidfd.Close()
	}
	if p.dir != nil {
		err = errors.Join(err, p.dir.Close())
	}
	return err
}

// A Status is what stackfs needs of /proc/TID/status.
type Status struct {
	TGID, PPID             int
	RealUID, UID, SavedUID uint32
	RealGID, GID, SavedGID uint32
	Groups                 []uint32
	CapPrm, CapEff         uint64
	Name                   string
}

// Status reads /proc/TID/status.
func (p *Proc) Status() (Status, error) {
	dir, err := p.open()
	if err != nil {
		return Status{}, err
	}
	b, err := readAt(dir, "status")
	if err != nil {
		return Status{}, fmt.Errorf("thread %d: status: %w", p.tid, err)
	}
	st, err := parseStatus(b)
	if err != nil {
		return Status{}, fmt.Errorf("thread %d: status: %w", p.tid, err)
	}
	return st, nil
}

func parseStatus(b []byte) (Status, error) {
	var st Status
	var seen int
	for line := range bytes.Lines(b) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		var err error
		value = bytes.TrimSpace(value)
		switch string(key) {
		case "Name":
			st.Name = string(value)
		case "Tgid":
			st.TGID, err = strconv.Atoi(string(value))
			seen++
		case "PPid":
			st.PPID, err = strconv.Atoi(string(value))
		case "Uid":
			err = parseIDs(value, &st.RealUID, &st.UID, &st.SavedUID)
			seen++
		case "Gid":
			err = parseIDs(value, &st.RealGID, &st.GID, &st.SavedGID)
			seen++
		case "Groups":
			for _, f := range bytes.Fields(value) {
				var g uint64
				if g, err = strconv.ParseUint(string(f), 10, 32); err != nil {
					break
				}
				st.Groups = append(st.Groups, uint32(g))
			}
			seen++
		case "CapPrm":
			st.CapPrm, err = strconv.ParseUint(string(value), 16, 64)
			seen++
		case "CapEff":
			st.CapEff, err = strconv.ParseUint(string(value), 16, 64)
			seen++
		}
		if err != nil {
			return st, fmt.Errorf("line %q: %w", bytes.TrimSpace(line), err)
		}
	}
	if seen != 6 {
		return st, fmt.Errorf("not all of Tgid, Uid, Gid, Groups, CapPrm, CapEff are there")
	}
	return st, nil
}

func parseIDs(value []byte, ids ...*uint32) error {
	fields := bytes.Fields(value)
	if len(fields) < len(ids) {
		return fmt.Errorf("%d ids", len(fields))
	}
	for i, id := range ids {
		n, err := strconv.ParseUint(string(fields[i]), 10, 32)
		if err != nil {
			return err
		}
		*id = uint32(n)
	}
	return nil
}

// NS returns the identity of one of the thread's namespaces: "net", "user",
// "mnt".
func (p *Proc) NS(name string) (stacknode.NSID, error) {
	dir, err := p.open()
	if err != nil {
		return stacknode.NSID{}, err
	}
	return statNS(dir, "ns/"+name)
}

// OpenNS opens one of the thread's namespaces. The caller closes it.
func (p *Proc) OpenNS(name string) (*os.File, error) {
	dir, err := p.open()
	if err != nil {
		return nil, err
	}
	return openAt(dir, "ns/"+name)
}

// Caller describes the thread. Its functions work until the Proc is closed.
func (p *Proc) Caller() (*stacknode.Caller, error) {
	c := &stacknode.Caller{TID: p.tid, Look: sync.OnceValues(p.look)}
	if p.pidfd != nil {
		c.PID, c.UID, c.GID = p.ids.TGID, p.ids.UID, p.ids.GID
		c.RealUID, c.RealGID = p.ids.RealUID, p.ids.RealGID
		return c, nil
	}
	st, err := p.Status()
	if err != nil {
		return nil, err
	}
	c.PID, c.UID, c.GID, c.RealUID, c.RealGID = st.TGID, st.UID, st.GID, st.RealUID, st.RealGID
	return c, nil
}

func (p *Proc) look() (*stacknode.Details, error) {
	st, err := p.Status()
	if err != nil {
		return nil, err
	}
	d := &stacknode.Details{Identity: stacknode.Identity{UID: st.UID, GID: st.GID, Groups: st.Groups}}
	if d.NetNS, err = p.NS("net"); err != nil {
		return nil, fmt.Errorf("thread %d: %w", p.tid, err)
	}
	if d.UserNS, err = p.NS("user"); err != nil {
		return nil, fmt.Errorf("thread %d: %w", p.tid, err)
	}
	own, err := ownUserNS()
	if err != nil {
		return nil, err
	}
	d.SameUserNS = d.UserNS == own
	d.Caps, d.Permitted = stacknode.CapSet(st.CapEff), stacknode.CapSet(st.CapPrm)
	d.OpenNetNS = func() (*os.File, error) { return p.OpenNS("net") }
	d.CapsOver = func(netns *os.File) (stacknode.CapSet, error) {
		return capsOver(netns, d.UserNS, st.UID, d.Caps)
	}
	return d, nil
}

// FetchFD duplicates descriptor n of the thread, if it is what the caller of
// FetchFD wants: name is what /proc/PID/fd shows of it, which asks no file
// system. Anything else is not touched. A file of a FUSE file system, say,
// is the work of whoever serves that: to poll or close it may take for ever,
// and so it must get neither into package os nor anywhere else.
//
// Needs CAP_SYS_PTRACE over the thread. Since 5.6. Returns EBADF if n is not
// open, wrong if it is another thing.
func (p *Proc) FetchFD(tgid, n int, want func(name string) bool, wrong error) (*os.File, error) {
	name, err := fdName(p.tid, n)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d of the caller: %w", n, err)
	}
	if !want(name) {
		return nil, fmt.Errorf("descriptor %d of the caller: %w", n, wrong)
	}
	fd, err := p.fetch(tgid, n)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d of the caller: %w", n, err)
	}
	// Another thread of the caller may have exchanged it meanwhile.
	if name, err = ownFDName(fd); err != nil || !want(name) {
		closeFD(fd)
		return nil, fmt.Errorf("descriptor %d of the caller: %w", n, wrong)
	}
	return os.NewFile(uintptr(fd), "fetched"), nil
}

// FetchSocket duplicates the descriptor of a holder, if it is the socket with
// that SO_COOKIE. The caller closes it. Returns EBADF if it is something else
// now, ESRCH or ENOENT if the holder has ended.
func FetchSocket(h Holder, cookie uint64) (*os.File, error) {
	tid := h.PID
	if h.TID != 0 {
		tid = h.TID
	}
	p, err := Open(tid)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	f, err := p.FetchFD(h.PID, h.FD, IsSocket, unix.EBADF)
	if err != nil {
		return nil, err
	}
	cerr := control(f, func(fd int) {
		var got uint64
		got, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err == nil && got != cookie {
			err = unix.EBADF
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		f.Close()
		return nil, fmt.Errorf("descriptor %d of process %d: %w", h.FD, h.PID, err)
	}
	return f, nil
}

// IsSocket tells whether name, from /proc/PID/fd, is that of a socket.
func IsSocket(name string) bool { return strings.HasPrefix(name, "socket:[") }

// IsSeccompListener tells whether name is that of a seccomp listener.
func IsSeccompListener(name string) bool { return name == "anon_inode:seccomp notify" }

// maxEnviron bounds what is read of an environment, in bytes.
const maxEnviron = 1 << 20

// Getenv returns the value of a variable in the environment that the
// thread's program was started with, empty if it is not there.
func (p *Proc) Getenv(key string) (string, error) {
	dir, err := p.open()
	if err != nil {
		return "", err
	}
	f, err := openAt(dir, "environ")
	if err != nil {
		return "", err
	}
	defer f.Close()
	env, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return "", err
	}
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte(key+"=")); ok {
			return string(value), nil
		}
	}
	return "", nil
}

// ReadMemory fills b from the thread's memory at addr.
func (p *Proc) ReadMemory(b []byte, addr int64) error {
	dir, err := p.open()
	if err != nil {
		return err
	}
	f, err := openAt(dir, "mem")
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(b, addr)
	return err
}
