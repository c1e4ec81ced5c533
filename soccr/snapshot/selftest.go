package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/soccr"
)

// sendTimeout is what the calibration sets as SO_SNDTIMEO, in seconds, to
// learn what a second is in the kernel's own unit.
const sendTimeout = 1000

// selfTest calibrates the program and proves it: with connections in a
// network namespace of their own, in different states and families, it
// compares the snapshots with the bytes that were sent and with what soccr
// reads in repair mode.
func selfTest(e *engine) error {
	return inNewNetns(func() error {
		if err := loopbackUp(); err != nil {
			return err
		}
		var cases testCases
		defer cases.Close()
		if err := cases.prepare(); err != nil {
			return err
		}
		var err error
		if e.facts.known, err = knownOptions(cases[0].end.fd); err != nil {
			return err
		}
		here := NetNS{Do: func(fn func() error) error { return fn() }}
		if err := e.calibrate(here, cases[0]); err != nil {
			return fmt.Errorf("calibrate: %w", err)
		}
		return e.compare(here, cases)
	})
}

// knownOptions returns the options that this kernel has.
func knownOptions(fd int) ([]soccr.OptionName, error) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt SO_DOMAIN", err)
	}
	c := soccr.Conn{Family: family}
	if err := soccr.ReadOptions(fd, &c); err != nil {
		return nil, err
	}
	var known []soccr.OptionName
	for _, o := range soccr.OptionNames() {
		// TCP_MAXSEG as the owner set it cannot be read.
		if _, ok := c.Options[o.Name]; ok || o.Name == "TCP_MAXSEG" {
			known = append(known, o)
		}
	}
	return known, nil
}

// calibrate lets the program find the bytes that a socket sent in memory,
// and learns the length of the kernel's jiffy.
func (e *engine) calibrate(ns NetNS, c testCase) error {
	timeout := unix.Timeval{Sec: sendTimeout}
	if err := unix.SetsockoptTimeval(c.end.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		return os.NewSyscallError("setsockopt SO_SNDTIMEO", err)
	}
	_, known := e.arena.block(0)
	copy(known, c.send)
	e.control.Calibrate = 1
	slots, err := e.onePass(ns, []uint64{c.end.cookie})
	e.control.Calibrate = 0
	if err != nil {
		return err
	}
	if e.control.PageSize != 64 {
		return fmt.Errorf("struct page has %d bytes, not 64: %w", e.control.PageSize, errors.ErrUnsupported)
	}
	if err := slots[0].failure(); err != nil {
		return err
	}
	e.facts.pageBase = e.control.PageBase
	if e.facts.hz = slots[0].Sndtimeo / sendTimeout; e.facts.hz < 10 || e.facts.hz > 100_000 {
		return fmt.Errorf("a second has %d jiffies: %w", e.facts.hz, ErrQueue)
	}
	return nil
}

// compare takes snapshots of all and then looks at the same sockets in
// repair mode. A timer may have changed one in between, so it tries again.
func (e *engine) compare(ns NetNS, cases testCases) (err error) {
	for range 3 {
		if err = e.compareOnce(ns, cases); err == nil {
			return nil
		}
	}
	return err
}

func (e *engine) compareOnce(ns NetNS, cases testCases) error {
	results := make(map[uint64]*shared)
	for _, c := range cases {
		results[c.end.cookie] = &shared{}
	}
	if err := e.takeAll(ns, results); err != nil {
		return err
	}
	for _, c := range cases {
		if err := c.check(results[c.end.cookie].Result); err != nil {
			return fmt.Errorf("a connection in state %v: %w", c.state, err)
		}
	}
	return nil
}

// check compares a snapshot with what is known.
func (c testCase) check(r Result) error {
	if r.Err != nil {
		return r.Err
	}
	got := r.Conn
	switch {
	case got.State != c.state:
		return fmt.Errorf("a snapshot in state %v", got.State)
	case !bytes.Equal(got.Recv, c.recv):
		return fmt.Errorf("receive queue: other bytes than were sent, %d of %d", len(got.Recv), len(c.recv))
	case !bytes.Equal(got.Send, c.send):
		return fmt.Errorf("send queue: other bytes than were sent, %d of %d", len(got.Send), len(c.send))
	}
	want, err := saveInRepairMode(c.end.fd)
	if err != nil {
		return fmt.Errorf("repair mode: %w", err)
	}
	return differs(got, want)
}

// saveInRepairMode saves one of our own sockets.
func saveInRepairMode(fd int) (*soccr.Conn, error) {
	sock, err := soccr.Pause(fd)
	if err != nil {
		return nil, err
	}
	c, err := sock.Conn()
	return c, errors.Join(err, sock.Resume())
}

// differs tells in what a snapshot differs from what repair mode shows of a
// socket that did not change in between.
func differs(got, want *soccr.Conn) error {
	// Time goes by, and timers change what Info shows.
	data := got.Data
	data.Timestamp = want.Timestamp
	if data != want.Data {
		return fmt.Errorf("numbers: %+v, in repair mode %+v", data, want.Data)
	}
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"family", got.Family, want.Family},
		{"local address", got.Local, want.Local},
		{"remote address", got.Remote, want.Remote},
		{"shutdown", got.Shutdown, want.Shutdown},
		{"congestion control", got.Congestion, want.Congestion},
		{"device", got.Device, want.Device},
		{"cookie", got.Meta.Cookie, want.Meta.Cookie},
		{"inode", got.Meta.Inode, want.Meta.Inode},
		{"owner", got.Meta.UID, want.Meta.UID},
		{"namespace", got.Meta.NetNS, want.Meta.NetNS},
	} {
		if f.got != f.want {
			return fmt.Errorf("%s: %v, in repair mode %v", f.name, f.got, f.want)
		}
	}
	return differInOptions(got.Options, want.Options)
}

// differInOptions leaves out what only one of the two can tell: the value of
// an option that was not set, and TCP_MAXSEG.
func differInOptions(got, want soccr.Options) error {
	for _, o := range soccr.OptionNames() {
		g, set := got[o.Name]
		w, there := want[o.Name]
		if !set && o.Flags&soccr.FlagDefault != 0 || o.Name == "TCP_MAXSEG" {
			continue
		}
		if g != w || set != there {
			return fmt.Errorf("%s: %d, in repair mode %d", o.Name, g, w)
		}
	}
	return nil
}
