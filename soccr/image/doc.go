// Package image is the file that a saved connection is kept in.
//
// The file is a tcp-stream image of CRIU (https://criu.org/Images), which
// crit decodes and which CRIU restores in the place of its own. All numbers
// outside of the entry are little-endian:
//
//	offset  bytes
//	0       4      0x54564319, CRIU: an image
//	4       4      0x51465506, CRIU: of the kind TCP_STREAM
//	8       4      length of the entry
//	12             the entry: the protobuf message tcp_stream_entry
//	               fields 1 to 17: CRIU's own
//	               field 1000: the extension, the message of stackfs-image.proto
//	               field 1001: the digest, 32 bytes
//	               field 1002: the seal, 32 bytes, if the image is sealed
//	then           inq_len bytes that the owner has not read
//	then           outq_len bytes that the peer has not acknowledged; the
//	               last unsq_len of them were never sent
//
// Fields 1000 to 1002 are the last of the entry, in that order. CRIU and crit
// take them for fields of a later version of CRIU and skip them; go-criu and
// protobuf-c keep them. What crit writes from its JSON has lost them and is an
// image of CRIU's, without addresses and without a digest.
//
// The digest is the SHA-256 of the whole file without its own 32 bytes. The
// seal is the HMAC-SHA-256, under a key of the installation, of the whole file
// without these and its own 32 bytes. So each byte of the file is covered, and
// what the seal says (for whom, in which boot, for which network namespace and
// stack, and a number to be used once) is part of what it seals.
//
// The digest finds damage; whoever changes a file can compute it again. What
// is decoded is checked to be a connection that can exist, and is the word of
// whoever wrote the file, unless [Image.CheckSeal] says that it is ours.
//
// # In a dump of CRIU
//
// [ReadCRIU] takes connections out of a directory that criu dump has written,
// where the addresses, the state and the options are in files.img and the
// file tcp-stream-INODE.img, the inode in hexadecimal, has the rest.
//
// An image of ours can be copied over such a file: criu restore then makes
// the socket from it. Everything that files.img says about the socket must
// fit, since CRIU takes family, addresses, ports, state, shutdown and options
// from there; [Dumped.Accepts] compares what both have. CRIU demands unsq_len,
// with window scaling rcv_wscale and with timestamps timestamp, which an image
// of ours always has. The queues may be longer or shorter than they were, as
// long as the sequence numbers are those that the peer expects. Tried with
// criu 3.17.1 on Linux 6.1.
package image

//go:generate sh -c "protoc --plugin=protoc-gen-go=`go tool -n protoc-gen-go` --go_out=internal/pb --go_opt=paths=source_relative stackfs-image.proto"
