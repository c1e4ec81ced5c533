package fastsocket_test

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/stackfs/stackfs/fastsocket"
)

func Example() {
	g, err := fastsocket.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go g.Serve(func(c net.Conn) {
		defer c.Close()
		io.WriteString(c, "hello")
	})
	c, err := net.Dial("tcp", g.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := io.ReadAll(c)
	fmt.Println(string(b), err, g.Close())
	// Output: hello <nil> <nil>
}
