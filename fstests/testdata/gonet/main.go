// Command gonet is the static Go program of the tests: servers, clients, a
// name server, and a program that talks on several stacks.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/stackfs/stackfs/stacknode/msocket"
)

const timeLimit = 20 * time.Second

func main() {
	commands := map[string]func(args []string) error{
		"serve": serve, "get": get, "udp": udp, "resolve": resolve, "dns": serveDNS, "stacks": stacks,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gonet serve|get|udp|resolve|dns|stacks ARGUMENT...")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "gonet:", err)
		os.Exit(1)
	}
}

// serve ADDRESS TEXT: answers TEXT by HTTP, and by UDP to every datagram.
func serve(args []string) error {
	packets, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1500)
		for {
			_, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo([]byte(args[1]), from)
		}
	}()
	fmt.Println("ready")
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, args[1]) }))
}

// get URL: prints what the server answers.
func get(args []string) error {
	client := http.Client{Timeout: timeLimit}
	return fetch(&client, args[0])
}

func fetch(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	fmt.Println(string(b))
	return err
}

// udp ADDRESS: sends a datagram and prints the answer.
func udp(args []string) error {
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	return ask(c)
}

// ask repeats the datagram: one may be lost while the link comes up.
func ask(c net.Conn) error {
	defer c.Close()
	b := make([]byte, 1500)
	for range 20 {
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(timeLimit / 20)); err != nil {
			return err
		}
		n, err := c.Read(b)
		if err == nil {
			fmt.Println(string(b[:n]))
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return errors.New("no answer")
}

// resolve NAME: prints its IPv4 addresses.
func resolve(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", args[0])
	for _, a := range list {
		fmt.Println(a)
	}
	return err
}

// stacks ADDRESS PATH...: gets http://ADDRESS/ and asks ADDRESS by UDP on
// every stack, all connections being open at the same time.
func stacks(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	var conns, asked []net.Conn
	for _, path := range args[1:] {
		c, err := msocket.Dial(ctx, path, "tcp", args[0])
		if err != nil {
			return err
		}
		defer c.Close()
		u, err := msocket.Dial(ctx, path, "udp", args[0])
		if err != nil {
			return err
		}
		conns, asked = append(conns, c), append(asked, u)
	}
	for i, c := range conns {
		if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		b, err := io.ReadAll(c)
		if err != nil {
			return err
		}
		_, body, _ := strings.Cut(string(b), "\r\n\r\n")
		fmt.Println(body)
		if err := ask(asked[i]); err != nil {
			return err
		}
	}
	return nil
}
