package msocket

import (
	"context"
	"net"
	"os"
	"time"
)

// A Stack is a stack by its path, with the functions of package net. It may
// be copied; two of the same path share their channels.
//
// The networks are "tcp", "tcp4", "tcp6", "udp", "udp4" and "udp6". Those
// of UNIX sockets, which are in no stack, and raw ones are refused: see
// [Socket].
type Stack struct {
	Path string

	// Timeout bounds a dial, names included. 0: only the context does.
	Timeout time.Duration
}

// Socket is [Socket] in this stack.
func (s Stack) Socket(domain, typ, proto int) (*os.File, error) {
	return Socket(s.Path, domain, typ, proto)
}

// Dial is [Stack.DialContext] without a context.
func (s Stack) Dial(network, address string) (net.Conn, error) {
	return s.DialContext(context.Background(), network, address)
}

// Dial connects to address in the stack at path: see [Stack.DialContext].
func Dial(ctx context.Context, path, network, address string) (net.Conn, error) {
	return Stack{Path: path}.DialContext(ctx, network, address)
}

// Listen listens on address in the stack at path: see [Stack.Listen].
func Listen(ctx context.Context, path, network, address string) (net.Listener, error) {
	return Stack{Path: path}.Listen(ctx, network, address)
}

// ListenPacket listens for datagrams in the stack at path: see
// [Stack.ListenPacket].
func ListenPacket(ctx context.Context, path, network, address string) (net.PacketConn, error) {
	return Stack{Path: path}.ListenPacket(ctx, network, address)
}

// Resolver returns a resolver of names in the stack at path: see
// [Stack.Resolver].
func Resolver(path string) *net.Resolver { return Stack{Path: path}.Resolver() }
