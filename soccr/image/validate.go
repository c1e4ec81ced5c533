package image

import (
	"math"
	"net/netip"
	"strings"
	"sync"
	"syscall"

	"github.com/stackfs/stackfs/soccr"
)

// What a kernel takes, and what is left of an image that says more.
const (
	maxWscale  = 14 // TCP_MAX_WSCALE: RFC 7323
	maxMSS     = math.MaxUint16
	maxName    = 15 // IFNAMSIZ and TCP_CA_NAME_MAX without the NUL
	maxOptions = 256
	maxOptName = 32
)

// Validate tells whether c can be a connection that soccr restores: a state
// that has one, lengths that are those of the queues, addresses of the family,
// numbers that the kernel takes. Returns ErrInvalid.
func Validate(c *soccr.Conn) error {
	if !c.State.Saveable() {
		return invalidf("a connection in the state %s cannot be saved or restored", c.State)
	}
	if uint64(c.InqLen) != uint64(len(c.Recv)) || uint64(c.OutqLen) != uint64(len(c.Send)) {
		return invalidf("the queues have %d and %d bytes, not %d and %d", len(c.Recv), len(c.Send), c.InqLen, c.OutqLen)
	}
	if err := validateData(&c.Data); err != nil {
		return err
	}
	if c.MSSClamp == 0 && c.State != soccr.Close && c.State != soccr.SynSent {
		return invalidf("a segment size of 0 bytes")
	}
	if c.Shutdown > 3 {
		return invalidf("shutdown is %d: there are two directions", c.Shutdown)
	}
	if err := validateAddresses(c); err != nil {
		return err
	}
	if c.Info.RTT < 0 || c.Info.RTTVar < 0 {
		return invalidf("a round trip of less than no time")
	}
	if err := validateName("congestion control", c.Congestion); err != nil {
		return err
	}
	if err := validateName("device", c.Device); err != nil {
		return err
	}
	return validateOptions(c.Options)
}

// validateData checks what is in CRIU's own part of an image.
func validateData(d *soccr.Data) error {
	switch {
	case d.UnsqLen > d.OutqLen:
		return invalidf("%d of %d bytes in the send queue are unsent", d.UnsqLen, d.OutqLen)
	case d.InqLen > math.MaxInt32 || d.OutqLen > math.MaxInt32:
		return invalidf("queues of %d and %d bytes: the kernel has at most 2 GiB", d.InqLen, d.OutqLen)
	case d.SndWscale > maxWscale || d.RcvWscale > maxWscale:
		return invalidf("windows scaled by %d and %d bits: at most %d are", d.SndWscale, d.RcvWscale, maxWscale)
	case d.MSSClamp > maxMSS:
		return invalidf("segments of %d bytes: at most %d fit", d.MSSClamp, maxMSS)
	case d.HasWindow && d.MaxWindow < d.SndWnd:
		// tcp_repair_set_window gives EINVAL.
		return invalidf("a window of %d bytes, and %d as the largest ever", d.SndWnd, d.MaxWindow)
	}
	return nil
}

// validateAddresses checks both ends. Only a socket in CLOSE may have
// forgotten the peer.
func validateAddresses(c *soccr.Conn) error {
	if c.Family != syscall.AF_INET && c.Family != syscall.AF_INET6 {
		return invalidf("the address family %d has no TCP here", c.Family)
	}
	if err := validateAddress(c.Family, "local", c.Local); err != nil {
		return err
	}
	if !c.Remote.IsValid() && c.State == soccr.Close {
		return nil
	}
	if err := validateAddress(c.Family, "remote", c.Remote); err != nil {
		return err
	}
	ip := c.Remote.Addr().Unmap()
	switch {
	case c.Local.Addr().Is4In6() != c.Remote.Addr().Is4In6():
		return invalidf("a connection from %s to %s: one is IPv4 and the other is not", c.Local, c.Remote)
	case ip.IsUnspecified(), ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return invalidf("a connection to %s: nobody is there", c.Remote)
	case c.Remote.Port() == 0, c.Local.Port() == 0 && c.State != soccr.Close:
		return invalidf("a connection from %s to %s: the port 0 is none", c.Local, c.Remote)
	}
	return nil
}

func validateAddress(family int, which string, a netip.AddrPort) error {
	ip := a.Addr()
	switch {
	case !a.IsValid():
		return invalidf("the %s address is missing", which)
	case ip.Is4() != (family == syscall.AF_INET):
		return invalidf("the %s address %s is not of the family of the socket", which, a)
	}
	if ip.Zone() == "" {
		return nil
	}
	if ip.Is4In6() || !ip.IsLinkLocalUnicast() {
		return invalidf("the %s address %s has an interface, but is not link-local", which, a)
	}
	return validateName("interface", ip.Zone())
}

// validateName checks the name of an interface or of a congestion control;
// dev_valid_name of the kernel forbids the same.
func validateName(what, name string) error {
	if len(name) > maxName || name == "." || name == ".." || strings.ContainsAny(name, "/:\x00 \t\n\v\f\r") {
		return invalidf("%q is no name of a %s", name, what)
	}
	return nil
}

// validateOptions checks names and ranges; whether a value within the range
// is one that the option takes, the kernel tells.
func validateOptions(o soccr.Options) error {
	if len(o) > maxOptions {
		return invalidf("%d options: there are not as many", len(o))
	}
	for name, v := range o {
		if !isOptionName(name) {
			return invalidf("%q is no name of a socket option", name)
		}
		if least, most := optionRange(name); v < least || v > most {
			return invalidf("the option %s has the value %d: it is from %d to %d", name, v, least, most)
		}
	}
	return nil
}

// optionRange returns what a value can be. An option that soccr does not know
// may have come from a later version of it, and is not written to a socket.
func optionRange(name string) (least, most int64) {
	switch name {
	case "SO_RCVBUF", "SO_SNDBUF":
		return 0, math.MaxInt32
	}
	kind, ok := optionKinds()[name]
	if !ok {
		return math.MinInt64, math.MaxInt64
	}
	switch kind {
	case soccr.KindUint:
		return 0, math.MaxUint32
	case soccr.KindBool:
		return 0, 1
	case soccr.KindTimeval: // microseconds, which become nanoseconds
		return 0, math.MaxInt64 / 1000
	case soccr.KindLinger: // kept in jiffies
		return -1, math.MaxInt32
	case soccr.KindRate:
		return -1, math.MaxInt64
	}
	return math.MinInt32, math.MaxInt32
}

var optionKinds = sync.OnceValue(func() map[string]soccr.Kind {
	kinds := map[string]soccr.Kind{}
	for _, o := range soccr.OptionNames() {
		kinds[o.Name] = o.Kind
	}
	return kinds
})

func isOptionName(name string) bool {
	if len(name) > maxOptName || !strings.Contains(name, "_") {
		return false
	}
	for _, r := range name {
		if (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' {
			return false
		}
	}
	return true
}
