package uapi

import (
	"encoding/binary"
	"fmt"
	"syscall"
)

// Command values, as the macros of stackfs.h compute them. The golden file
// compares both.
const (
	IocVersion = 0xc02053c0
	IocInfo    = 0xc06853c1
	IocMsocket = 0xc03053c2
	IocRun     = 0xc02853c3
	IocRestore = 0xc02053c4
	IocListen  = 0xc03053c5
)

// Sizes of the structures in bytes.
const (
	SizeVersion = 32
	SizeInfo    = 104
	SizeMsocket = 48
	SizeRun     = 40
	SizeRestore = 32
	SizeListen  = 48
	SizeClone   = 16
	SizeSlot    = 64
	SizePage    = 128
	SizeChanReq = 24
	SizeChanRep = 16
)

var native = binary.NativeEndian

func checkSize(b []byte, want int, name string) error {
	if len(b) != want {
		return fmt.Errorf("%s has %d bytes, not %d: %w", name, len(b), want, syscall.EINVAL)
	}
	return nil
}

func checkZero(b []byte, name string) error {
	for _, c := range b {
		if c != 0 {
			return fmt.Errorf("%s: a reserved field is not zero: %w", name, syscall.EINVAL)
		}
	}
	return nil
}

// A structure travels in both directions. UnmarshalBinary decodes what a
// caller asks: it returns EINVAL if the size is wrong, a reserved field is
// not zero or a flag is unknown, so that a later version can give these a
// meaning. UnmarshalReply decodes what the daemon answers, and checks the
// size only: a later minor version may answer more.

// MarshalBinary encodes v.
func (v *Version) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizeVersion)
	b = native.AppendUint32(b, v.Major)
	b = native.AppendUint32(b, v.Minor)
	b = native.AppendUint64(b, v.Features)
	return b[:SizeVersion], nil
}

// UnmarshalBinary decodes a request.
func (v *Version) UnmarshalBinary(b []byte) error {
	if err := v.UnmarshalReply(b); err != nil {
		return err
	}
	return checkZero(b[16:], "stackfs_version")
}

// UnmarshalReply decodes an answer.
func (v *Version) UnmarshalReply(b []byte) error {
	if err := checkSize(b, SizeVersion, "stackfs_version"); err != nil {
		return err
	}
	v.Major, v.Minor, v.Features = native.Uint32(b), native.Uint32(b[4:]), native.Uint64(b[8:])
	return nil
}

// MarshalBinary encodes i.
func (i *Info) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizeInfo)
	b = native.AppendUint32(b, i.Kind)
	b = native.AppendUint32(b, i.Flags)
	b = native.AppendUint64(b, i.Families)
	b = native.AppendUint64(b, i.NetnsCookie)
	b = append(b, i.Name[:]...)
	return b[:SizeInfo], nil
}

// UnmarshalBinary decodes a request.
func (i *Info) UnmarshalBinary(b []byte) error {
	if err := i.UnmarshalReply(b); err != nil {
		return err
	}
	return checkZero(b[88:], "stackfs_info")
}

// UnmarshalReply decodes an answer.
func (i *Info) UnmarshalReply(b []byte) error {
	if err := checkSize(b, SizeInfo, "stackfs_info"); err != nil {
		return err
	}
	i.Kind, i.Flags = native.Uint32(b), native.Uint32(b[4:])
	i.Families, i.NetnsCookie = native.Uint64(b[8:]), native.Uint64(b[16:])
	copy(i.Name[:], b[24:])
	return nil
}

// MarshalBinary encodes m.
func (m *Msocket) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizeMsocket)
	for _, v := range []int32{m.Domain, m.Type, m.Protocol} {
		b = native.AppendUint32(b, uint32(v))
	}
	b = native.AppendUint32(b, m.Flags)
	b = native.AppendUint64(b, m.ReplyCookie)
	b = native.AppendUint32(b, uint32(m.ReplyFD))
	b = native.AppendUint32(b, m.Result)
	return b[:SizeMsocket], nil
}

// UnmarshalBinary decodes a request.
func (m *Msocket) UnmarshalBinary(b []byte) error {
	if err := m.UnmarshalReply(b); err != nil {
		return err
	}
	if m.Flags&^MsocketMake != 0 {
		return fmt.Errorf("stackfs_msocket: unknown flags %#x: %w", m.Flags, syscall.EINVAL)
	}
	return checkZero(b[32:], "stackfs_msocket")
}

// UnmarshalReply decodes an answer.
func (m *Msocket) UnmarshalReply(b []byte) error {
	if err := checkSize(b, SizeMsocket, "stackfs_msocket"); err != nil {
		return err
	}
	m.Domain, m.Type = int32(native.Uint32(b)), int32(native.Uint32(b[4:]))
	m.Protocol, m.Flags = int32(native.Uint32(b[8:])), native.Uint32(b[12:])
	m.ReplyCookie = native.Uint64(b[16:])
	m.ReplyFD, m.Result = int32(native.Uint32(b[24:])), native.Uint32(b[28:])
	return nil
}

// MarshalBinary encodes r.
func (r *Run) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizeRun)
	b = native.AppendUint32(b, uint32(r.ListenerFD))
	b = native.AppendUint32(b, r.Flags)
	b = native.AppendUint64(b, r.Families)
	b = native.AppendUint64(b, r.Ticket)
	return b[:SizeRun], nil
}

// UnmarshalBinary decodes a request.
func (r *Run) UnmarshalBinary(b []byte) error {
	if err := r.UnmarshalReply(b); err != nil {
		return err
	}
	if r.Flags != 0 {
		return fmt.Errorf("stackfs_run: unknown flags %#x: %w", r.Flags, syscall.EINVAL)
	}
	return checkZero(b[24:], "stackfs_run")
}

// UnmarshalReply decodes an answer.
func (r *Run) UnmarshalReply(b []byte) error {
	if err := checkSize(b, SizeRun, "stackfs_run"); err != nil {
		return err
	}
	r.ListenerFD, r.Flags = int32(native.Uint32(b)), native.Uint32(b[4:])
	r.Families, r.Ticket = native.Uint64(b[8:]), native.Uint64(b[16:])
	return nil
}

// MarshalBinary encodes r.
func (r *Restore) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizeRestore)
	b = native.AppendUint64(b, r.ReplyCookie)
	b = native.AppendUint32(b, uint32(r.ReplyFD))
	b = native.AppendUint32(b, r.Flags)
	return b[:SizeRestore], nil
}

// UnmarshalBinary decodes a request.
func (r *Restore) UnmarshalBinary(b []byte) error {
	if err := r.UnmarshalReply(b); err != nil {
		return err
	}
	if r.Flags != 0 {
		return fmt.Errorf("stackfs_restore: unknown flags %#x: %w", r.Flags, syscall.EINVAL)
	}
	return checkZero(b[16:], "stackfs_restore")
}

// UnmarshalReply decodes an answer.
func (r *Restore) UnmarshalReply(b []byte) error {
	if err := checkSize(b, SizeRestore, "stackfs_restore"); err != nil {
		return err
	}
	r.ReplyCookie = native.Uint64(b)
	r.ReplyFD, r.Flags = int32(native.Uint32(b[8:])), native.Uint32(b[12:])
	return nil
}

// MarshalBinary encodes l.
func (l *Listen) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizeListen)
	b = native.AppendUint64(b, l.ReplyCookie)
	b = native.AppendUint32(b, uint32(l.ReplyFD))
	b = native.AppendUint32(b, uint32(l.ListenerFD))
	b = native.AppendUint64(b, l.ListenerCookie)
	b = native.AppendUint32(b, l.Flags)
	b = native.AppendUint32(b, l.BoxSize)
	return b[:SizeListen], nil
}

// UnmarshalBinary decodes a request.
func (l *Listen) UnmarshalBinary(b []byte) error {
	if err := l.UnmarshalReply(b); err != nil {
		return err
	}
	if l.Flags != 0 {
		return fmt.Errorf("stackfs_listen: unknown flags %#x: %w", l.Flags, syscall.EINVAL)
	}
	return checkZero(b[32:], "stackfs_listen")
}

// UnmarshalReply decodes an answer.
func (l *Listen) UnmarshalReply(b []byte) error {
	if err := checkSize(b, SizeListen, "stackfs_listen"); err != nil {
		return err
	}
	l.ReplyCookie = native.Uint64(b)
	l.ReplyFD, l.ListenerFD = int32(native.Uint32(b[8:])), int32(native.Uint32(b[12:]))
	l.ListenerCookie = native.Uint64(b[16:])
	l.Flags, l.BoxSize = native.Uint32(b[24:]), native.Uint32(b[28:])
	return nil
}

// MarshalBinary encodes c.
func (c *Clone) MarshalBinary() ([]byte, error) {
	return native.AppendUint64(make([]byte, 0, SizeClone), c.Cookie)[:SizeClone], nil
}

// MarshalBinary encodes p, the head of a page that nobody uses yet.
func (p *Page) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizePage)
	for _, v := range []uint32{p.Magic, p.Version, p.Slots, p.Resv0, p.Workers, p.Mode, p.Reason, p.Resv1} {
		b = native.AppendUint32(b, v)
	}
	b = native.AppendUint64(b, p.Since)
	return native.AppendUint64(b, p.Shared)[:SizePage], nil
}

// MarshalBinary encodes r.
func (r *ChanReq) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizeChanReq)
	b = native.AppendUint32(b, r.Seq)
	b = native.AppendUint32(b, r.Flags)
	for _, v := range []int32{r.Domain, r.Type, r.Protocol} {
		b = native.AppendUint32(b, uint32(v))
	}
	return native.AppendUint32(b, r.Resv), nil
}

// UnmarshalBinary decodes a request.
func (r *ChanReq) UnmarshalBinary(b []byte) error {
	if err := checkSize(b, SizeChanReq, "stackfs_chan_req"); err != nil {
		return err
	}
	r.Seq, r.Flags = native.Uint32(b), native.Uint32(b[4:])
	r.Domain, r.Type = int32(native.Uint32(b[8:])), int32(native.Uint32(b[12:]))
	r.Protocol, r.Resv = int32(native.Uint32(b[16:])), native.Uint32(b[20:])
	if r.Flags != 0 {
		return fmt.Errorf("stackfs_chan_req: unknown flags %#x: %w", r.Flags, syscall.EINVAL)
	}
	if r.Seq == 0 {
		return fmt.Errorf("stackfs_chan_req: seq is 0: %w", syscall.EINVAL)
	}
	return checkZero(b[20:], "stackfs_chan_req")
}

// MarshalBinary encodes r.
func (r *ChanRep) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, SizeChanRep)
	b = native.AppendUint32(b, r.Seq)
	b = native.AppendUint32(b, uint32(r.Error))
	b = native.AppendUint32(b, r.Flags)
	return native.AppendUint32(b, r.Resv), nil
}

// UnmarshalReply decodes an answer.
func (r *ChanRep) UnmarshalReply(b []byte) error {
	if err := checkSize(b, SizeChanRep, "stackfs_chan_rep"); err != nil {
		return err
	}
	r.Seq, r.Error = native.Uint32(b), int32(native.Uint32(b[4:]))
	r.Flags, r.Resv = native.Uint32(b[8:]), native.Uint32(b[12:])
	return nil
}
