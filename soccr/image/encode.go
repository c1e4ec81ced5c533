package image

import (
	"encoding/binary"
	"fmt"

	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stackfs/stackfs/soccr"
)

// Encode returns the image of c. It keeps nothing of c. Returns ErrInvalid if
// c cannot be a connection that soccr restores.
func Encode(c *soccr.Conn, opts Options) ([]byte, error) {
	if err := Validate(c); err != nil {
		return nil, err
	}
	if opts.Seal != nil && len(opts.Key) < KeySize {
		return nil, invalidf("a key of %d bytes: at least %d are needed", len(opts.Key), KeySize)
	}
	marshal := proto.MarshalOptions{Deterministic: true}
	head, err := marshal.Marshal(streamEntry(c))
	if err != nil {
		return nil, fmt.Errorf("encode tcp_stream_entry: %w", err)
	}
	ext, err := marshal.Marshal(extensionOf(c, opts.Seal))
	if err != nil {
		return nil, fmt.Errorf("encode extension: %w", err)
	}
	if len(ext) > maxExt {
		return nil, invalidf("%d bytes of options, names and notes: at most %d are kept", len(ext), maxExt)
	}

	tail := fieldSize
	if opts.Seal != nil {
		tail += fieldSize
	}
	entry := len(head) + protowire.SizeTag(extField) + protowire.SizeBytes(len(ext)) + tail
	file := make([]byte, 0, headerSize+entry+len(c.Recv)+len(c.Send))
	file = binary.LittleEndian.AppendUint32(file, magicCommon)
	file = binary.LittleEndian.AppendUint32(file, magicStream)
	file = binary.LittleEndian.AppendUint32(file, uint32(entry))
	file = append(file, head...)
	file = protowire.AppendTag(file, extField, protowire.BytesType)
	file = protowire.AppendBytes(file, ext)
	digest := len(file)
	file = append(file, digestTag[:]...)
	file = append(file, make([]byte, sumSize)...)
	if opts.Seal != nil {
		file = append(file, sealTag[:]...)
		file = append(file, make([]byte, sumSize)...)
	}
	file = append(file, c.Recv...)
	file = append(file, c.Send...)
	// The digest covers the seal, so it comes second.
	if opts.Seal != nil {
		copy(file[digest+fieldSize+tagSize:], sealOf(opts.Key, file, digest))
	}
	copy(file[digest+tagSize:], digestOf(file, digest))
	return file, nil
}

// streamEntry makes CRIU's own part of the entry. It has what CRIU demands,
// and the two options that CRIU had here before 4.0.
func streamEntry(c *soccr.Conn) *tcp_stream.TcpStreamEntry {
	e := &tcp_stream.TcpStreamEntry{
		InqLen:    proto.Uint32(c.InqLen),
		InqSeq:    proto.Uint32(c.InqSeq),
		OutqLen:   proto.Uint32(c.OutqLen),
		OutqSeq:   proto.Uint32(c.OutqSeq),
		UnsqLen:   proto.Uint32(c.UnsqLen),
		OptMask:   proto.Uint32(c.OptMask),
		MssClamp:  proto.Uint32(c.MSSClamp),
		SndWscale: proto.Uint32(c.SndWscale),
		RcvWscale: proto.Uint32(c.RcvWscale),
		Timestamp: proto.Uint32(c.Timestamp),
	}
	if c.Options["TCP_CORK"] > 0 {
		e.Cork = proto.Bool(true)
	}
	if c.Options["TCP_NODELAY"] > 0 {
		e.Nodelay = proto.Bool(true)
	}
	if c.HasWindow {
		e.SndWl1 = proto.Uint32(c.SndWl1)
		e.SndWnd = proto.Uint32(c.SndWnd)
		e.MaxWindow = proto.Uint32(c.MaxWindow)
		e.RcvWnd = proto.Uint32(c.RcvWnd)
		e.RcvWup = proto.Uint32(c.RcvWup)
	}
	return e
}
