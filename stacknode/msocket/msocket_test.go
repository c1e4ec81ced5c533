package msocket

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A Stack dials for package http.
var _ = http.Transport{DialContext: Stack{}.DialContext}

func TestPathsThatAreNoStacks(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"":                          unix.ENOENT,
		filepath.Join(dir, "no"):    unix.ENOENT,
		filepath.Join(dir, "no/no"): unix.ENOENT,
		dir:                         unix.ENOTSUP,
		"/":                         unix.ENOTSUP,
		"/proc/self":                unix.ENOTSUP,
		file:                        unix.ENOTSUP,
		fifo:                        unix.ENOTSUP, // and is not waited for
		"/dev/null":                 unix.ENOTSUP,
	} {
		for _, domain := range []int{unix.AF_INET, unix.AF_UNIX} {
			f, err := Socket(path, domain, unix.SOCK_STREAM, 0)
			var op *OpError
			if f != nil || !errors.Is(err, want) || !errors.As(err, &op) || op.Stack != path {
				t.Errorf("Socket(%q): got %v, %v, want %v", path, f, err, want)
			}
		}
		if err := SetDefault(path, 0); !errors.Is(err, want) {
			t.Errorf("SetDefault(%q): got %v, want %v", path, err, want)
		}
		if f, err := Restore(context.Background(), path, strings.NewReader("image")); f != nil || !errors.Is(err, want) {
			t.Errorf("Restore(%q): got %v, %v, want %v", path, f, err, want)
		}
	}
}

func TestNetworksThatAreRefused(t *testing.T) {
	ctx := context.Background()
	for network, want := range map[string]error{
		"unix": unix.EAFNOSUPPORT, "unixgram": unix.EAFNOSUPPORT, "unixpacket": unix.EAFNOSUPPORT,
		"ip": net.UnknownNetworkError("ip"), "ip4:icmp": net.UnknownNetworkError("ip4:icmp"), "": net.UnknownNetworkError(""),
	} {
		if c, err := Dial(ctx, "/nowhere", network, "127.0.0.1:1"); c != nil || !errors.Is(err, want) {
			t.Errorf("Dial(%q): got %v, %v, want %v", network, c, err, want)
		}
		if l, err := Listen(ctx, "/nowhere", network, "127.0.0.1:1"); l != nil || !errors.Is(err, want) {
			t.Errorf("Listen(%q): got %v, %v, want %v", network, l, err, want)
		}
	}
	if l, err := Listen(ctx, "/nowhere", "udp", ":0"); l != nil || !errors.Is(err, net.UnknownNetworkError("udp")) {
		t.Errorf("Listen(udp): got %v, %v", l, err)
	}
	if c, err := ListenPacket(ctx, "/nowhere", "tcp", ":0"); c != nil || !errors.Is(err, net.UnknownNetworkError("tcp")) {
		t.Errorf("ListenPacket(tcp): got %v, %v", c, err)
	}
}

func TestDialOfNoStack(t *testing.T) {
	for _, address := range []string{"127.0.0.1:1", "[::1]:1", ":1", "localhost:http"} {
		c, err := Dial(context.Background(), "/nowhere", "tcp", address)
		if c != nil || !errors.Is(err, unix.ENOENT) {
			t.Errorf("Dial(%q): got %v, %v, want ENOENT", address, c, err)
		}
	}
	for network, address := range map[string]string{"tcp4": "[::1]:1", "tcp6": "127.0.0.1:1"} {
		var wrong *net.AddrError
		if c, err := Dial(context.Background(), "/nowhere", network, address); c != nil || !errors.As(err, &wrong) {
			t.Errorf("Dial(%q, %q): got %v, %v, want a net.AddrError", network, address, c, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if c, err := Dial(ctx, "/nowhere", "tcp", "127.0.0.1:1"); c != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Dial with an ended context: got %v, %v", c, err)
	}
}

func TestOpErrorReads(t *testing.T) {
	_, err := Socket("/nowhere", unix.AF_INET, unix.SOCK_STREAM, 0)
	if got, want := err.Error(), "socket /nowhere: no such file or directory"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	_, err = Socket("/dev/null", unix.AF_INET, unix.SOCK_STREAM, 0)
	if got, want := err.Error(), "socket /dev/null: not a stack: operation not supported"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	timeout := &OpError{Op: "dial", Stack: "/s", Err: context.DeadlineExceeded}
	if !timeout.Timeout() {
		t.Errorf("%v is no timeout", timeout)
	}
}
