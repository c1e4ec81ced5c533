package image

import (
	"bytes"
	"encoding/binary"
	"slices"

	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	"github.com/checkpoint-restore/go-criu/v7/magic"
	"google.golang.org/protobuf/proto"

	"github.com/stackfs/stackfs/soccr"
)

// Decode reads an image of ours or a tcp-stream image of CRIU's. It takes
// nothing on trust: it allocates one copy of b and little more, and what it
// returns without an error has passed [Validate], unless it is Foreign. It
// does not keep b. Returns ErrDamaged, ErrVersion or ErrInvalid.
func Decode(b []byte) (*Image, error) {
	entry, err := frame(b)
	if err != nil {
		return nil, err
	}
	p, err := split(entry)
	if err != nil {
		return nil, err
	}
	var e tcp_stream.TcpStreamEntry
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(p.known, &e); err != nil {
		return nil, damagedf(headerSize, "the tcp_stream_entry is not complete: %s", why(err))
	}
	rest := b[headerSize+len(entry):]
	if err := checkQueues(&e, len(b)-len(rest), len(rest)); err != nil {
		return nil, err
	}

	i := &Image{Size: len(b), Foreign: p.ext == nil}
	if i.Foreign {
		if i.Conn, err = foreignConn(&e); err != nil {
			return nil, err
		}
	} else {
		i.digest = headerSize + p.digest
		if !bytes.Equal(b[i.digest+tagSize:i.digest+fieldSize], digestOf(b, i.digest)) {
			return nil, problemf(ErrDamaged, "the digest does not match: the file was changed after it had been written")
		}
		if i.Conn, i.Seal, err = extendedConn(&e, p); err != nil {
			return nil, err
		}
	}
	i.raw = slices.Clone(b)
	queues := i.raw[headerSize+len(entry):]
	in := int(e.GetInqLen())
	i.Conn.Recv = queues[:in:in]
	i.Conn.Send = queues[in:]
	if !i.Foreign {
		if err := Validate(i.Conn); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// frame checks what stands before the entry and returns the entry.
func frame(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, problemf(ErrDamaged, "the file is empty")
	}
	if len(b) < headerSize {
		return nil, damagedf(len(b), "the file ends within the first %d bytes: no image, or cut off", headerSize)
	}
	first, kind := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if first != magicCommon {
		return nil, damagedf(0, "no CRIU image: the file begins with 0x%08x, not with 0x%08x", first, uint32(magicCommon))
	}
	if kind != magicStream {
		if name, ok := magic.LoadMagic().ByValue[uint64(kind)]; ok {
			return nil, damagedf(4, "a CRIU image of the kind %s, not TCP_STREAM", name)
		}
		return nil, damagedf(4, "a CRIU image of the unknown kind 0x%08x, not TCP_STREAM", kind)
	}
	size := binary.LittleEndian.Uint32(b[8:])
	switch {
	case size > maxEntry:
		return nil, damagedf(8, "an entry of %d bytes: at most %d are taken", size, maxEntry)
	case int(size) > len(b)-headerSize:
		return nil, damagedf(8, "the entry has %d bytes, but only %d follow: cut off?", size, len(b)-headerSize)
	}
	return b[headerSize : headerSize+size], nil
}

// checkQueues compares the lengths in the entry with the rest bytes of the
// file from the byte off on.
func checkQueues(e *tcp_stream.TcpStreamEntry, off, rest int) error {
	in, out := uint64(e.GetInqLen()), uint64(e.GetOutqLen())
	switch {
	case in > uint64(rest):
		return damagedf(off, "the receive queue (inq_len) has %d bytes, but only %d follow: cut off?", in, rest)
	case in+out > uint64(rest):
		return damagedf(off+int(in), "the send queue (outq_len) has %d bytes, but only %d follow: cut off?", out, uint64(rest)-in)
	case in+out < uint64(rest):
		return damagedf(off+int(in+out), "%d bytes follow the queues", uint64(rest)-in-out)
	case e.UnsqLen == nil:
		return problemf(ErrDamaged, "the image does not say how much was sent (unsq_len)")
	case e.GetUnsqLen() > e.GetOutqLen():
		return problemf(ErrDamaged, "more bytes are unsent (unsq_len %d) than there are in the send queue (outq_len %d)", e.GetUnsqLen(), e.GetOutqLen())
	}
	return nil
}

// streamData is what CRIU's own part of the entry says.
func streamData(e *tcp_stream.TcpStreamEntry) soccr.Data {
	return soccr.Data{
		InqLen:    e.GetInqLen(),
		InqSeq:    e.GetInqSeq(),
		OutqLen:   e.GetOutqLen(),
		OutqSeq:   e.GetOutqSeq(),
		UnsqLen:   e.GetUnsqLen(),
		OptMask:   e.GetOptMask(),
		MSSClamp:  e.GetMssClamp(),
		SndWscale: e.GetSndWscale(),
		RcvWscale: e.GetRcvWscale(),
		Timestamp: e.GetTimestamp(),
		HasWindow: e.SndWnd != nil,
		SndWl1:    e.GetSndWl1(),
		SndWnd:    e.GetSndWnd(),
		MaxWindow: e.GetMaxWindow(),
		RcvWnd:    e.GetRcvWnd(),
		RcvWup:    e.GetRcvWup(),
	}
}

// foreignConn makes the connection of an image of CRIU's, without queues. It
// demands what CRIU does.
func foreignConn(e *tcp_stream.TcpStreamEntry) (*soccr.Conn, error) {
	c := &soccr.Conn{Data: streamData(e), Options: soccr.Options{}}
	if e.GetCork() {
		c.Options["TCP_CORK"] = 1
	}
	if e.GetNodelay() {
		c.Options["TCP_NODELAY"] = 1
	}
	window := 0
	for _, f := range []*uint32{e.SndWl1, e.SndWnd, e.MaxWindow, e.RcvWnd, e.RcvWup} {
		if f != nil {
			window++
		}
	}
	switch {
	case c.OptMask&soccr.OptWscale != 0 && e.RcvWscale == nil:
		return nil, problemf(ErrDamaged, "windows are scaled, but rcv_wscale is missing")
	case c.OptMask&soccr.OptTimestamps != 0 && e.Timestamp == nil:
		return nil, problemf(ErrDamaged, "timestamps are used, but timestamp is missing")
	case window != 0 && window != 5:
		return nil, problemf(ErrDamaged, "%d of the 5 numbers of the window are missing", 5-window)
	}
	return c, validateData(&c.Data)
}
