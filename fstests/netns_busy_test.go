package fstests

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode"
)

// busyNetns returns what Busy says, joined by commas.
func busyNetns(t *testing.T, b stacknode.Backend) string {
	t.Helper()
	reasons, err := b.(stacknode.Busier).Busy()
	mustDo(t, err)
	return strings.Join(reasons, ", ")
}

func wantBusy(t *testing.T, b stacknode.Backend, what, want string) {
	t.Helper()
	if got := busyNetns(t, b); got != want {
		t.Errorf("%s: Busy: got %q, want %q", what, got, want)
	}
}

func TestNetnsIsBusyWhileAnySocketIsOpen(t *testing.T) {
	isolated(t, func(t *testing.T) {
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{
			Sysctl: map[string]string{"net.ipv4.ping_group_range": "0 2147483647"},
		})
		wantBusy(t, b, "at first", "")

		tcp := mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_STREAM, 0)
		wantBusy(t, b, "a TCP socket that is only created", "1 socket")
		tcp.Close()
		wantBusy(t, b, "the TCP socket closed", "")

		ping := mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
		wantBusy(t, b, "a ping socket", "1 socket")
		ping.Close()
		wantBusy(t, b, "the ping socket closed", "")

		for name, domain := range map[string]int{"packet": unix.AF_PACKET, "netlink": unix.AF_NETLINK} {
			s := mustNetnsSocket(t, b, domain, unix.SOCK_RAW, 0)
			wantBusy(t, b, name, "1 socket")
			s.Close()
			wantBusy(t, b, name+" closed", "")
		}
	})
}

func TestNetnsIsBusyWhileSocketIsInFlight(t *testing.T) {
	isolated(t, func(t *testing.T) {
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{})
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		mustDo(t, err)
		s := mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_STREAM, 0)
		mustDo(t, unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(s.Fd())), nil, 0))
		s.Close()
		unix.Close(pair[0])
		wantBusy(t, b, "not received yet", "1 socket")
		unix.Close(pair[1])
		wantBusy(t, b, "never received", "")
	})
}

func TestNetnsIsBusyWhileStoppedProcessHoldsSocket(t *testing.T) {
	isolated(t, func(t *testing.T) {
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{})
		s := mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_DGRAM, 0)
		holder := exec.Command("sleep", "60")
		holder.ExtraFiles = []*os.File{s}
		mustDo(t, holder.Start())
		t.Cleanup(func() { holder.Process.Kill() })
		s.Close()
		mustDo(t, holder.Process.Signal(syscall.SIGSTOP))
		wantBusy(t, b, "held by a stopped process", "1 socket")
		mustDo(t, holder.Process.Kill())
		holder.Wait()
		wantBusy(t, b, "its holder killed", "")
	})
}

func TestNetnsIsBusyWhileProcessIsInIt(t *testing.T) {
	isolated(t, func(t *testing.T) {
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{})
		sleep := exec.Command("nsenter", "--net="+nsPath(t, b), "sleep", "60")
		mustDo(t, sleep.Start())
		t.Cleanup(func() { sleep.Process.Kill() })
		want := fmt.Sprintf("process %d (sleep)", sleep.Process.Pid)
		eventually(t, 5*time.Second, want, func() bool { return busyNetns(t, b) == want })
		mustDo(t, sleep.Process.Kill())
		sleep.Wait()
		wantBusy(t, b, "the process killed", "")
	})
}

// loopbackIn makes a TCP connection within the namespace of b: the listener, the
// end that connected, the one that was accepted.
func loopbackIn(t *testing.T, b stacknode.Backend) (listener, client *os.File, accepted int) {
	t.Helper()
	listener = mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_STREAM, 0)
	client = mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_STREAM, 0)
	addr := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 4000}
	mustDo(t, unix.Bind(int(listener.Fd()), addr))
	mustDo(t, unix.Listen(int(listener.Fd()), 1))
	mustDo(t, unix.Connect(int(client.Fd()), addr))
	accepted, _, err := unix.Accept4(int(listener.Fd()), unix.SOCK_CLOEXEC)
	mustDo(t, err)
	return listener, client, accepted
}

func TestNetnsIsNotBusyWithOrphans(t *testing.T) {
	isolated(t, func(t *testing.T) {
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{})
		listener, client, accepted := loopbackIn(t, b)
		wantBusy(t, b, "a connection", "3 sockets")

		// With lo down neither end hears of the other's FIN.
		inNetns(t, b, "ip", "link", "set", "lo", "down")
		listener.Close()
		client.Close()
		wantBusy(t, b, "one end left", "1 socket")
		unix.Close(accepted)
		if left := inNetns(t, b, "ss", "-tanH"); !strings.Contains(left, "FIN-WAIT-1") {
			t.Fatalf("no orphan to test with:\n%s", left)
		}
		wantBusy(t, b, "orphans only", "")
	})
}

// A TIME_WAIT entry in the state FIN_WAIT2 has no inode either, but is none
// of the sockets that sockstat counts.
func TestNetnsIsBusyBesideTimeWait(t *testing.T) {
	isolated(t, func(t *testing.T) {
		b := newNetns(t, netnsEnv(t), "own", stacknode.NetnsSpec{})
		listener, client, accepted := loopbackIn(t, b)
		listener.Close()
		client.Close()
		eventually(t, 5*time.Second, "FIN-WAIT-2", func() bool {
			return strings.Contains(inNetns(t, b, "ss", "-tanH"), "FIN-WAIT-2")
		})
		wantBusy(t, b, "the peer holds on", "1 socket")
		unix.Close(accepted)
		wantBusy(t, b, "TIME_WAIT only", "")
	})
}

func TestNetnsThatIsNotOursIsBusyOnlyWithChanges(t *testing.T) {
	isolated(t, func(t *testing.T) {
		mustCommand(t, "ip", "netns", "add", "lab")
		plain := newNetns(t, netnsEnv(t), "plain", stacknode.NetnsSpec{Name: "lab"})
		changed := newNetns(t, netnsEnv(t), "changed", stacknode.NetnsSpec{Name: "lab", Addresses: prefixes("192.0.2.1/24")})
		s := mustNetnsSocket(t, plain, unix.AF_INET, unix.SOCK_STREAM, 0)
		wantBusy(t, plain, "unchanged", "")
		wantBusy(t, changed, "changed", "1 socket")
		s.Close()
		wantBusy(t, changed, "changed, no socket", "")
	})
}

func TestNetnsRemovedByForceLeavesItsSocketsConnected(t *testing.T) {
	isolated(t, func(t *testing.T) {
		env := netnsEnv(t)
		b := newNetns(t, env, "own", stacknode.NetnsSpec{
			Addresses: prefixes("192.0.2.1/24"),
			Uplink:    &stacknode.Uplink{Type: "veth", PeerAddresses: prefixes("192.0.2.2/24")},
		})
		s := mustNetnsSocket(t, b, unix.AF_INET, unix.SOCK_DGRAM, 0)
		mustDo(t, unix.Bind(int(s.Fd()), &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 4000}))
		endNetns(t, b)
		got := make([]byte, 8)
		mustDo(t, unix.SetsockoptTimeval(int(s.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
		mustCommand(t, "bash", "-c", "echo still > /dev/udp/192.0.2.1/4000")
		if n, err := unix.Read(int(s.Fd()), got); err != nil || string(got[:n]) != "still\n" {
			t.Errorf("read: %q, %v", got[:max(n, 0)], err)
		}
		// Another of that name is not in its way.
		endNetns(t, newNetns(t, env, "own", stacknode.NetnsSpec{Uplink: &stacknode.Uplink{Type: "veth"}}))
		s.Close()
		eventually(t, 5*time.Second, "the namespace ends with its last socket", func() bool {
			out, _ := tryCommand("ip", "-br", "link", "show", "type", "veth")
			return out == ""
		})
		leavesNothing(t)
	})
}
