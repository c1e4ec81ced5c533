package stacknode

import "testing"

func TestParseFamilies(t *testing.T) {
	for _, tt := range []struct {
		list string
		want FamilySet
	}{
		{"ipv4", 1 << AFInet},
		{"inet6,NETLINK", 1<<AFInet6 | 1<<AFNetlink},
		{"ip", InternetFamilies},
		{"AF_PACKET, pf_inet", 1<<AFPacket | 1<<AFInet},
		{"17", 1 << AFPacket},
		{"bt", 1 << 31},
	} {
		got, err := ParseFamilies(tt.list)
		if err != nil || got != tt.want {
			t.Errorf("ParseFamilies(%q): got %v, %v, want %v", tt.list, got, err, tt.want)
		}
	}
	for _, list := range []string{"", "ipv5", "0", "46", "-1", "ipv4,,ipv6", "inet;inet6"} {
		if got, err := ParseFamilies(list); err == nil {
			t.Errorf("ParseFamilies(%q): got %v, want an error", list, got)
		}
	}
}

func TestEveryFamilyNameParses(t *testing.T) {
	for n := 1; n < afMax; n++ {
		if got, err := ParseFamilies(FamilyName(n)); err != nil || got != 1<<n {
			t.Errorf("%s: got %v, %v", FamilyName(n), got, err)
		}
	}
	if AllFamilies.Has(AFUnix) || !AllFamilies.Has(AFInet) || InternetFamilies.Has(-1) || InternetFamilies.Has(64) {
		t.Error("wrong members")
	}
}
