package peer

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"github.com/stackfs/stackfs/stacknode"
)

// A Proc is an open /proc/TID of a waiting thread: what is read through it
// is of that thread or fails with ESRCH.
type Proc struct {
	tid int
	dir *os.File
}

// Open opens the thread tid. The caller closes the Proc. Returns ESRCH or
// ENOENT if there is no such thread.
func Open(tid int) (*Proc, error) {
	if tid <= 0 {
		return nil, fmt.Errorf("the caller is not visible in the daemon's pid namespace: %w", errNoProcess)
	}
	dir, err := openProc(tid)
	if err != nil {
		return nil, fmt.Errorf("thread %d: %w", tid, err)
	}
	return &Proc{tid: tid, dir: dir}, nil
}

// Close ends the Proc and what [Proc.Caller] returned of it.
func (p *Proc) Close() error { return p.dir.Close() }

// A Status is what stackfs needs of /proc/TID/status.
type Status struct {
	TGID, PPID             int
	RealUID, UID, SavedUID uint32
	RealGID, GID, SavedGID uint32
	Groups                 []uint32
	CapEff                 uint64
	Name                   string
}

// Status reads /proc/TID/status.
func (p *Proc) Status() (Status, error) {
	b, err := readAt(p.dir, "status")
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
		case "CapEff":
			st.CapEff, err = strconv.ParseUint(string(value), 16, 64)
			seen++
		}
		if err != nil {
			return st, fmt.Errorf("line %q: %w", bytes.TrimSpace(line), err)
		}
	}
	if seen != 5 {
		return st, fmt.Errorf("not all of Tgid, Uid, Gid, Groups, CapEff are there")
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
	return statNS(p.dir, "ns/"+name)
}

// OpenNS opens one of the thread's namespaces. The caller closes it.
func (p *Proc) OpenNS(name string) (*os.File, error) {
	return openAt(p.dir, "ns/"+name)
}

// Caller describes the thread. Its functions work until the Proc is closed.
func (p *Proc) Caller() (*stacknode.Caller, error) {
	st, err := p.Status()
	if err != nil {
		return nil, err
	}
	c := &stacknode.Caller{
		PID:      st.TGID,
		TID:      p.tid,
		Identity: stacknode.Identity{UID: st.UID, GID: st.GID, Groups: st.Groups},
		RealUID:  st.RealUID,
		RealGID:  st.RealGID,
	}
	if c.NetNS, err = p.NS("net"); err != nil {
		return nil, fmt.Errorf("thread %d: %w", p.tid, err)
	}
	user, err := p.NS("user")
	if err != nil {
		return nil, fmt.Errorf("thread %d: %w", p.tid, err)
	}
	own, err := ownUserNS()
	if err != nil {
		return nil, err
	}
	c.SameUserNS = user == own
	c.OpenNetNS = func() (*os.File, error) { return p.OpenNS("net") }
	c.CapsOver = func(netns *os.File) (stacknode.CapSet, error) {
		return capsOver(netns, user, st.UID, stacknode.CapSet(st.CapEff))
	}
	return c, nil
}

// ReadMemory fills b from the thread's memory at addr.
func (p *Proc) ReadMemory(b []byte, addr int64) error {
	f, err := openAt(p.dir, "mem")
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(b, addr)
	return err
}
