package soccr

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sniffTCP listens at an interface of the current namespace. The returned
// call tells which TCP packets came in there since the last call.
func sniffTCP(t testing.TB, iface string) func() []string {
	t.Helper()
	const all = 0x0300 // ETH_P_ALL in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	ifi, err := net.InterfaceByName(iface)
	check(t, err)
	check(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}))
	return func() (packets []string) {
		t.Helper()
		b := make([]byte, 1<<17)
		for {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if errors.Is(err, unix.EAGAIN) {
				return packets
			}
			check(t, err)
			if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			head, proto := 20, 9
			if b[0]>>4 == 6 {
				head, proto = 40, 6
			}
			if n >= head+20 && b[proto] == unix.IPPROTO_TCP {
				packets = append(packets, fmt.Sprintf("flags %#02x, %d bytes", b[head+13], n))
			}
		}
	}
}

// leaveOutResets leaves out the resets that the stack sends where a peer
// does not know that its FIN arrived and sends it again, which it does in
// CLOSING alone.
func leaveOutResets(packets []string, state State) []string {
	if state != Closing {
		return packets
	}
	return slices.DeleteFunc(packets, func(p string) bool { return strings.HasPrefix(p, "flags 0x04") })
}
