package msocket_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackfs/stackfs/stacknode/msocket"
)

// A socket as socket(2) makes it, in a stack.
func ExampleSocket() {
	f, err := msocket.Socket("/dev/net/lab", unix.AF_INET, unix.SOCK_DGRAM, 0)
	switch {
	case errors.Is(err, unix.ENODEV):
		log.Fatal("the stack is gone")
	case err != nil:
		log.Fatal(err)
	}
	defer f.Close()
	if err := unix.Connect(int(f.Fd()), &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 53}); err != nil {
		log.Fatal(err)
	}
}

// An HTTP client whose connections and names are in a stack.
func ExampleStack_DialContext() {
	lab := msocket.Stack{Path: "/dev/net/lab", Timeout: 10 * time.Second}
	client := &http.Client{Transport: &http.Transport{DialContext: lab.DialContext}}
	resp, err := client.Get("http://example.net/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
}

// A server that takes connections from one stack.
func ExampleStack_Listen() {
	lab := msocket.Stack{Path: "/dev/net/lab"}
	l, err := lab.Listen(context.Background(), "tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(l, http.NotFoundHandler()))
}

// From one stack to another in one process.
func ExampleDial() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	from, err := msocket.Dial(ctx, "/dev/net/lab", "tcp", "192.0.2.1:7")
	if err != nil {
		log.Fatal(err)
	}
	defer from.Close()
	to, err := msocket.Dial(ctx, "/dev/net/vpn", "tcp", "[2001:db8::1]:7")
	if err != nil {
		log.Fatal(err)
	}
	defer to.Close()
}

// Names as the stack has them.
func ExampleResolver() {
	addrs, err := msocket.Resolver("/dev/net/lab").LookupHost(context.Background(), "example.net")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(addrs)
}

// A connection that another process had goes on in this one. It was held
// while its image was read, and then released: for an image of a connection
// that goes on its peer and this stack have no use any more.
func ExampleRestore() {
	image, err := os.Open("conn.img")
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	f, err := msocket.Restore(context.Background(), "/dev/net/lab", image)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		log.Fatal("the connection is still there: ", err)
	case err != nil:
		log.Fatal(err)
	}
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "it is me now")
}

// Every socket that this program makes by SocketDefault, and those of
// programs with libmsocket that it starts, are in the stack.
func ExampleSetDefault() {
	if err := msocket.SetDefault("/dev/net/lab", 0); err != nil {
		log.Fatal(err)
	}
	f, err := msocket.SocketDefault(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		log.Fatal(err)
	}
	f.Close()
	if err := msocket.ClearDefault(0); err != nil {
		log.Fatal(err)
	}
}
