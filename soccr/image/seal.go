package image

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"slices"
)

// digestTag and sealTag are how fields 1001 and 1002 begin: number and type,
// then the length 32.
var (
	digestTag = [tagSize]byte{0xca, 0x3e, sumSize}
	sealTag   = [tagSize]byte{0xd2, 0x3e, sumSize}
)

// digestOf returns the digest of file, whose field 1001 is at the offset at:
// the SHA-256 of all but the 32 bytes that have it.
func digestOf(file []byte, at int) []byte {
	h := sha256.New()
	h.Write(file[:at+tagSize])
	h.Write(file[at+fieldSize:])
	return h.Sum(nil)
}

// sealOf returns the seal of file, whose field 1001 is at the offset at and
// whose field 1002 follows it: the HMAC of all but the 32 bytes of each.
func sealOf(key, file []byte, at int) []byte {
	h := hmac.New(sha256.New, key)
	writeSealed(h, file, at)
	return h.Sum(nil)
}

func writeSealed(h hash.Hash, file []byte, at int) {
	h.Write(file[:at+tagSize])
	h.Write(file[at+fieldSize : at+fieldSize+tagSize])
	h.Write(file[at+2*fieldSize:])
}

// CheckSeal tells whether the image was sealed under key and not a byte of it
// was changed since, those of the queues of Conn included. It says nothing
// about whether the Seal fits the caller. Returns ErrSeal.
func (i *Image) CheckSeal(key []byte) error {
	switch {
	case i.Seal == nil:
		return problemf(ErrSeal, "the image is not sealed")
	case len(key) < KeySize:
		return invalidf("a key of %d bytes: at least %d are needed", len(key), KeySize)
	}
	at := i.digest + fieldSize + tagSize
	if !hmac.Equal(i.raw[at:at+sumSize], sealOf(key, i.raw, i.digest)) {
		return problemf(ErrSeal, "the seal of the image is not one of this installation, or the image was changed")
	}
	return nil
}

// hiddenExtension tells whether the entry of a file ends as one of ours does.
// It finds an image in which the extension cannot be seen since a byte before
// it was changed.
func hiddenExtension(entry []byte) bool {
	n := len(entry)
	return n >= fieldSize && slices.Equal(entry[n-fieldSize:n-sumSize], digestTag[:]) ||
		n >= 2*fieldSize && slices.Equal(entry[n-fieldSize:n-sumSize], sealTag[:]) &&
			slices.Equal(entry[n-2*fieldSize:n-fieldSize-sumSize], digestTag[:])
}
