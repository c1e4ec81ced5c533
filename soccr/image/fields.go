package image

import (
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// parts are the fields of an entry.
type parts struct {
	known  []byte // fields 1 to 17, and those of later versions of CRIU
	ext    []byte // content of field 1000; nil: the image is CRIU's
	digest int    // offset of field 1001 in the entry
	sealed bool   // field 1002 is there
}

// split takes an entry apart. It is stricter than protobuf is: one field has
// one place, so that one image has one form.
func split(entry []byte) (parts, error) {
	var last protowire.Number
	for off := 0; off < len(entry); {
		num, typ, n := protowire.ConsumeTag(entry[off:])
		if n < 0 {
			return parts{}, damagedf(headerSize+off, "no protobuf field: %s", why(protowire.ParseError(n)))
		}
		if typ == protowire.StartGroupType || typ == protowire.EndGroupType {
			return parts{}, damagedf(headerSize+off, "field %d is a group", num)
		}
		value := entry[off+n:]
		size := protowire.ConsumeFieldValue(num, typ, value)
		if size < 0 {
			return parts{}, damagedf(headerSize+off, "field %d is not complete: %s", num, why(protowire.ParseError(size)))
		}
		switch {
		case num <= lastKnownField:
			if num <= last {
				return parts{}, damagedf(headerSize+off, "field %d is out of order", num)
			}
			last = num
			if v, _ := protowire.ConsumeVarint(value); typ != protowire.VarintType || v > math.MaxUint32 {
				return parts{}, damagedf(headerSize+off, "field %d is not a number of 32 bits", num)
			}
		case num == extField && typ == protowire.BytesType:
			ext, _ := protowire.ConsumeBytes(value)
			p := parts{known: entry[:off], ext: ext, digest: off + n + size}
			return p, p.check(entry, headerSize+off)
		case num >= extField:
			return parts{}, damagedf(headerSize+off, "field %d is in the place of the extension", num)
		}
		off += n + size
	}
	if hiddenExtension(entry) {
		return parts{}, damagedf(headerSize, "the entry ends as if it had an extension, which is not there")
	}
	return parts{known: entry}, nil
}

// check looks at the extension, which is at the byte off of the file, and at
// what follows it. Of a later format only the first two fields of the
// extension are where we know them.
func (p *parts) check(entry []byte, off int) error {
	format, program, ok := versionOf(p.ext)
	tail := entry[p.digest:]
	switch {
	case !ok || format == 0:
		return damagedf(off, "the extension does not begin with its version")
	case format > Format:
		return problemf(ErrVersion, "stackfs %s wrote the image in format %d, and this program knows format %d: use stackfs %s or later",
			clean(program), format, Format, clean(program))
	case len(p.ext) > maxExt:
		return damagedf(off, "an extension of %d bytes: at most %d are taken", len(p.ext), maxExt)
	case len(tail) < fieldSize || !slices.Equal(tail[:tagSize], digestTag[:]):
		return damagedf(headerSize+p.digest, "the digest is missing")
	case len(tail) == fieldSize:
		return nil
	case len(tail) != 2*fieldSize || !slices.Equal(tail[fieldSize:fieldSize+tagSize], sealTag[:]):
		return damagedf(headerSize+p.digest+fieldSize, "the entry does not end with the digest and the seal")
	}
	p.sealed = true
	return nil
}

// versionOf returns the fields format and program, the first two of an
// extension.
func versionOf(ext []byte) (format uint64, program string, ok bool) {
	num, typ, n := protowire.ConsumeTag(ext)
	if n < 0 || num != 1 || typ != protowire.VarintType {
		return 0, "", false
	}
	format, m := protowire.ConsumeVarint(ext[n:])
	if m < 0 {
		return 0, "", false
	}
	rest := ext[n+m:]
	if num, typ, n = protowire.ConsumeTag(rest); n > 0 && num == 2 && typ == protowire.BytesType {
		if text, m := protowire.ConsumeBytes(rest[n:]); m > 0 {
			program = string(text[:min(len(text), 64)])
		}
	}
	return format, program, true
}

// clean makes a version fit for a message.
func clean(program string) string {
	program = strings.Map(func(r rune) rune {
		if r < '!' || r > '~' {
			return -1
		}
		return r
	}, program)
	if program == "" {
		return "(of an unknown version)"
	}
	return program
}
