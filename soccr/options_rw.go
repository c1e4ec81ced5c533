package soccr

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ReadOptions sets c.Options, c.Congestion and c.Device to what the socket
// has. It needs c.Family, disturbs nothing and works in repair mode too,
// where SO_REUSEADDR is not the owner's. An option that this kernel or this
// socket does not have is left out.
func ReadOptions(fd int, c *Conn) error {
	opts := make(Options, len(options))
	for i := range options {
		o := &options[i]
		if o.Flags&FlagInet6 != 0 && c.Family != unix.AF_INET6 || o.Name == "TCP_MAXSEG" {
			continue
		}
		v, err := o.get(fd)
		if notThere(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("getsockopt %s: %w", o.Name, err)
		}
		opts[o.Name] = v
	}
	var err error
	if c.Congestion, err = getString(fd, unix.SOL_TCP, unix.TCP_CONGESTION); err != nil {
		return fmt.Errorf("getsockopt TCP_CONGESTION: %w", err)
	}
	if c.Device, err = getString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err != nil {
		return fmt.Errorf("getsockopt SO_BINDTODEVICE: %w", err)
	}
	c.Options = opts
	return nil
}

// notThere tells whether an error means that the kernel lacks the option, or
// has it for other kinds of sockets only.
func notThere(err error) bool {
	return errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP)
}

// get reads one option.
func (o *OptionName) get(fd int) (int64, error) {
	switch o.Kind {
	case KindTimeval:
		tv, err := getTimeval(fd, o.Level, o.Opt)
		return int64(tv.Sec)*1e6 + int64(tv.Usec), err
	case KindLinger:
		l, err := getLinger(fd, o.Level, o.Opt)
		if l.Onoff == 0 {
			return -1, err
		}
		return int64(l.Linger), err
	case KindRate:
		v, err := getUlong(fd, o.Level, o.Opt)
		if v == ^uintptr(0) {
			return -1, err
		}
		return int64(v), err
	}
	v, err := unix.GetsockoptInt(fd, o.Level, o.Opt)
	switch {
	case o.Kind == KindUint:
		return int64(uint32(v)), err
	case o.Kind == KindBool && v != 0:
		return 1, err
	case o.Name == "IP_TOS", o.Name == "IPV6_TCLASS":
		return int64(v &^ 3), err
	}
	return int64(int32(v)), err
}

// WriteOptions gives the socket c.Options, c.Congestion and c.Device. Some
// can be set on a socket that is not bound yet only, so it is for new
// sockets; [Restore] needs no such call. An option, a congestion control or
// a value that this kernel does not have is left out and logged (see
// [SetLog]).
func WriteOptions(fd int, c *Conn) error {
	for _, when := range []stage{beforeBind, afterQueues, afterRepair} {
		if err := writeOptions(fd, c, when); err != nil {
			return err
		}
	}
	return nil
}

// writeOptions writes the options of one stage.
func writeOptions(fd int, c *Conn, when stage) error {
	if when == beforeBind {
		if err := writeNames(fd, c); err != nil {
			return err
		}
	}
	for i := range options {
		o := &options[i]
		v, ok := c.Options[o.Name]
		if !ok || o.when != when || o.Flags&FlagInet6 != 0 && c.Family != unix.AF_INET6 {
			continue
		}
		// What is so already is not written: a default stays a default,
		// a kernel that lacks the option is not asked for it.
		if now, err := o.get(fd); err == nil && now == v {
			continue
		}
		err := o.set(fd, v)
		if notThere(err) {
			logger().Warn("option left out: this kernel does not have it", "option", o.Name, "value", v)
			continue
		}
		if err != nil {
			return fmt.Errorf("setsockopt %s to %d: %w", o.Name, v, err)
		}
	}
	return nil
}

// writeNames writes the options that are strings.
func writeNames(fd int, c *Conn) error {
	if c.Device != "" {
		if err := unix.BindToDevice(fd, c.Device); err != nil {
			return fmt.Errorf("setsockopt SO_BINDTODEVICE to %q: %w", c.Device, err)
		}
	}
	if c.Congestion == "" {
		return nil
	}
	err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, c.Congestion)
	if errors.Is(err, unix.ENOENT) {
		logger().Warn("congestion control left out: this kernel does not have it", "name", c.Congestion)
		return nil
	}
	if err != nil {
		return fmt.Errorf("setsockopt TCP_CONGESTION to %q: %w", c.Congestion, err)
	}
	return nil
}

// set writes one option.
func (o *OptionName) set(fd int, v int64) error {
	switch o.Name {
	case "SO_SNDBUF": // the kernel doubles what it is given
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, int(v/2))
	case "SO_RCVBUF":
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, int(v/2))
	}
	switch o.Kind {
	case KindTimeval:
		tv := unix.NsecToTimeval(v * 1000)
		return unix.SetsockoptTimeval(fd, o.Level, o.Opt, &tv)
	case KindLinger:
		l := unix.Linger{}
		if v >= 0 {
			l = unix.Linger{Onoff: 1, Linger: int32(v)}
		}
		return unix.SetsockoptLinger(fd, o.Level, o.Opt, &l)
	case KindRate:
		return setUlong(fd, o.Level, o.Opt, uintptr(v))
	}
	return unix.SetsockoptInt(fd, o.Level, o.Opt, int(int32(v)))
}

// Diff names the options of which the two have different values, those that
// the kernel changes by itself (FlagAuto) apart; a size that its owner fixed
// (SO_BUF_LOCK, in o) counts. An option that only one of them has is not
// known to the other and no difference.
func (o Options) Diff(other Options) []string {
	var names []string
	lock := o["SO_BUF_LOCK"]
	for i := range options {
		row := &options[i]
		a, ok := o[row.Name]
		b, too := other[row.Name]
		fixed := row.Name == "SO_SNDBUF" && lock&bufLockSnd != 0 || row.Name == "SO_RCVBUF" && lock&bufLockRcv != 0
		if ok && too && a != b && (row.Flags&FlagAuto == 0 || fixed) {
			names = append(names, row.Name)
		}
	}
	return names
}

// Bits of SO_BUF_LOCK, SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK.
const (
	bufLockSnd = 1
	bufLockRcv = 2
)
