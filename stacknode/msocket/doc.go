// Package msocket makes sockets in network stacks that are directories of a
// stackfs mount: Go's msocket(3).
//
// A stack is named by its path ("/dev/net/lab"). The right to open the
// directory for reading is the right to make sockets in it. [Socket] is
// socket(2) with such a path in front; [Stack] has what package net has:
//
//	lab := msocket.Stack{Path: "/dev/net/lab"}
//	conn, err := lab.DialContext(ctx, "tcp", "example.net:80")
//
// What it returns are plain sockets of the kernel in types of packages os
// and net: data does not pass through the daemon, which may end meanwhile.
// No thread of the program changes its namespace.
//
// [Restore] makes a socket of a stack from the image of a TCP connection,
// which the file checkpoint of a connection's directory is.
//
// # Errors
//
// Errors are of the type [*OpError] and wrap an errno:
//
//	ENOENT           there is no such path
//	ENOTSUP          the path is no stack
//	EACCES           the mode of the stack, or it serves its own namespace only
//	EAFNOSUPPORT     the stack does not have the address family
//	EPERM            such a socket needs a right that the caller lacks
//	ENODEV           the stack or its daemon is gone
//
// and those of socket(2), connect(2), bind(2) and [Restore]. No error makes a socket
// come from another stack than the one that is named.
//
// # Channels
//
// The first socket of a stack costs an open and an ioctl; the channel to
// the daemon that comes with it is kept, and the next ones cost a message
// each. Up to four close-on-exec descriptors per stack are held for that;
// [CloseIdle] closes them.
package msocket
