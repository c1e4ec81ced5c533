package stacknode

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// A FamilySet is a set of address families, bit n for family n.
type FamilySet uint64

// Address families of the Linux ABI that stackfs treats by name.
const (
	AFUnspec  = 0
	AFUnix    = 1
	AFInet    = 2
	AFInet6   = 10
	AFNetlink = 16
	AFPacket  = 17
	afMax     = 46
)

// InternetFamilies are those of a network namespace.
const InternetFamilies = FamilySet(1<<AFInet | 1<<AFInet6 | 1<<AFNetlink | 1<<AFPacket)

// AllFamilies has every family but AF_UNIX, which is always local.
const AllFamilies = ^FamilySet(1<<AFUnix | 1<<AFUnspec)

// Has tells whether family is in the set.
func (s FamilySet) Has(family int) bool {
	return family >= 0 && family < 64 && s&(1<<family) != 0
}

// familyNames are the PF_ names of socket(2) in lower case, in the order of
// their numbers in <linux/socket.h>.
var familyNames = [afMax]string{
	"unspec", "unix", "inet", "ax25", "ipx", "appletalk", "netrom", "bridge",
	"atmpvc", "x25", "inet6", "rose", "decnet", "netbeui", "security", "key",
	"netlink", "packet", "ash", "econet", "atmsvc", "rds", "sna", "irda",
	"pppox", "wanpipe", "llc", "ib", "mpls", "can", "tipc", "bluetooth",
	"iucv", "rxrpc", "isdn", "phonet", "ieee802154", "caif", "alg", "nfc",
	"vsock", "kcm", "qipcrtr", "smc", "xdp", "mctp",
}

// familyAliases are the other names that vustack(1) takes.
var familyAliases = map[string]FamilySet{
	"ip":    InternetFamilies,
	"all":   AllFamilies,
	"ipv4":  1 << AFInet,
	"ip4":   1 << AFInet,
	"ipv6":  1 << AFInet6,
	"ip6":   1 << AFInet6,
	"local": 1 << AFUnix,
	"file":  1 << AFUnix,
	"route": 1 << AFNetlink,
	"bt":    1 << 31,
	"ir":    1 << 23,
}

// FamilyName returns the lower-case name of a family, or its number.
func FamilyName(family int) string {
	if family >= 0 && family < afMax {
		return familyNames[family]
	}
	return strconv.Itoa(family)
}

// Names returns the names of the families in the set, by number.
func (s FamilySet) Names() []string {
	var names []string
	for rest := uint64(s); rest != 0; rest &= rest - 1 {
		names = append(names, FamilyName(bits.TrailingZeros64(rest)))
	}
	return names
}

func (s FamilySet) String() string { return strings.Join(s.Names(), ",") }

// ParseFamilies reads a comma-separated list of family names, numbers and
// aliases ("ipv4,netlink,17"). The error names the word that it does not
// know.
func ParseFamilies(list string) (FamilySet, error) {
	var set FamilySet
	for _, word := range strings.Split(list, ",") {
		one, err := parseFamily(strings.ToLower(strings.TrimSpace(word)))
		if err != nil {
			return 0, err
		}
		set |= one
	}
	return set, nil
}

func parseFamily(word string) (FamilySet, error) {
	word = strings.TrimPrefix(strings.TrimPrefix(word, "af_"), "pf_")
	if set, ok := familyAliases[word]; ok {
		return set, nil
	}
	if n, err := strconv.Atoi(word); err == nil {
		if n <= 0 || n >= afMax {
			return 0, fmt.Errorf("address family %d is not between 1 and %d", n, afMax-1)
		}
		return 1 << n, nil
	}
	for n, name := range familyNames {
		if n > 0 && name == word {
			return 1 << n, nil
		}
	}
	return 0, fmt.Errorf("unknown address family %q (names as in socket(2), numbers, or ip, ipv4, ipv6, all)", word)
}
