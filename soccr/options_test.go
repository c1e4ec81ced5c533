package soccr

import (
	"testing"

	"golang.org/x/sys/unix"
)

// odd has a value for each option that a new socket does not have.
var odd = Options{
	"IPV6_V6ONLY": 1, "SO_REUSEPORT": 1, "SO_MARK": 0xfeedbeef, "SO_DONTROUTE": 1, "IP_FREEBIND": 1,
	"IP_TRANSPARENT": 1, "IP_BIND_ADDRESS_NO_PORT": 1, "IP_MTU_DISCOVER": 2, "IPV6_MTU_DISCOVER": 3,
	"IP_TOS": 0xb8, "IPV6_TCLASS": 0x48, "SO_PRIORITY": 5, "IP_TTL": 77, "IP_MINTTL": 3,
	"IPV6_UNICAST_HOPS": 78, "IPV6_MINHOPCOUNT": 4, "IP_RECVERR": 1, "IPV6_RECVERR": 1, "SO_KEEPALIVE": 1,
	"SO_OOBINLINE": 1, "SO_LINGER": 17, "SO_RCVTIMEO": 2_500_000, "SO_SNDTIMEO": 3_500_000,
	"SO_MAX_PACING_RATE": 5 << 32, "SO_BUSY_POLL": 12, "TCP_NODELAY": 1, "TCP_CORK": 1, "TCP_KEEPIDLE": 101,
	"TCP_KEEPINTVL": 102, "TCP_KEEPCNT": 33, "TCP_SYNCNT": 4, "TCP_LINGER2": 44, "TCP_USER_TIMEOUT": 55_555,
	"TCP_THIN_LINEAR_TIMEOUTS": 1, "TCP_INQ": 1, "TCP_MAXSEG": 1111, "TCP_NOTSENT_LOWAT": 70_000,
	"SO_SNDBUF": 300_000, "SO_RCVBUF": 400_000, "SO_BUF_LOCK": 3, "SO_RCVLOWAT": 9, "TCP_WINDOW_CLAMP": 123_456,
	"SO_PEEK_OFF": 0, "SO_REUSEADDR": 1,
}

func TestEveryOptionIsWrittenAndRead(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for family, name := range map[int]string{unix.AF_INET: "inet", unix.AF_INET6: "inet6"} {
		t.Run(name, func(t *testing.T) {
			fresh, got := Conn{Family: family}, Conn{Family: family}
			if err := ReadOptions(mustSocket(t, family), &fresh); err != nil {
				t.Fatal(err)
			}
			fd := mustSocket(t, family)
			want := Conn{Family: family, Options: odd, Congestion: "reno", Device: "lo"}
			if err := WriteOptions(fd, &want); err != nil {
				t.Fatal(err)
			}
			if err := ReadOptions(fd, &got); err != nil {
				t.Fatal(err)
			}
			if mss, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_MAXSEG); err != nil || mss != 1111 {
				t.Errorf("TCP_MAXSEG: got %d, %v, want 1111", mss, err)
			}
			for _, o := range OptionNames() {
				v, ok := got.Options[o.Name]
				switch {
				case o.Name == "SO_PEEK_OFF" && !setPeekOff(t, fd, 0):
					// not here
				case o.Flags&FlagInet6 != 0 && family == unix.AF_INET, o.Name == "TCP_MAXSEG":
					if ok {
						t.Errorf("%s: read %d, want nothing", o.Name, v)
					}
				case !ok || v != odd[o.Name]:
					t.Errorf("%s: got %d, %v, want %d", o.Name, v, ok, odd[o.Name])
				case fresh.Options[o.Name] == v:
					t.Errorf("%s: %d is what a new socket has: nothing is tested", o.Name, v)
				}
			}
			if got.Congestion != "reno" || got.Device != "lo" {
				t.Errorf("got congestion control %q on %q, want reno on lo", got.Congestion, got.Device)
			}
			if diff := got.Options.Diff(fresh.Options); len(diff) < 30 {
				t.Errorf("Diff with a new socket: %v", diff)
			}
			if diff := got.Options.Diff(odd); len(diff) != 0 {
				t.Errorf("Diff with what was written: %v", diff)
			}
		})
	}
}

// A default is not pinned by a restore: where the target has another one,
// that is for the sockets which never chose.
func TestDefaultsStayDefaults(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c, now := Conn{Family: unix.AF_INET}, Conn{Family: unix.AF_INET}
	fd := mustSocket(t, unix.AF_INET)
	if err := ReadOptions(fd, &c); err != nil {
		t.Fatal(err)
	}
	if err := WriteOptions(fd, &c); err != nil {
		t.Fatal(err)
	}
	if err := ReadOptions(fd, &now); err != nil {
		t.Fatal(err)
	}
	if lock := now.Options["SO_BUF_LOCK"]; lock != 0 {
		t.Errorf("SO_BUF_LOCK: got %d, want 0: the kernel no longer tunes the buffers", lock)
	}
	if diff := now.Options.Diff(c.Options); len(diff) != 0 {
		t.Errorf("changed: %v", diff)
	}
}

func TestUnknownCongestionControlIsLeftOut(t *testing.T) {
	needRoot(t)
	logged := captureLog(t)
	c := Conn{Family: unix.AF_INET, Congestion: "nosuchcc"}
	if err := WriteOptions(mustSocket(t, unix.AF_INET), &c); err != nil {
		t.Fatal(err)
	}
	if got := logged(); got == "" {
		t.Error("nothing was logged")
	}
}

func TestOptionNamesAreUnique(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, o := range OptionNames() {
		if seen[o.Name] {
			t.Errorf("%s is there twice", o.Name)
		}
		seen[o.Name] = true
		if _, ok := odd[o.Name]; !ok {
			t.Errorf("%s is not tested", o.Name)
		}
	}
}
