// Package launch starts a program whose sockets are those of a stack.
//
// The program is caught by a seccomp filter: socket(2) for every address
// family but AF_UNIX is answered by the daemon, which puts the socket of
// the stack into the caller. It works for static programs and for those
// that make system calls themselves, and all children are included. The
// arguments are integers in registers, so nothing can be changed behind the
// filter's back; the one old entry of 32-bit programs that has them in
// memory is copied once. io_uring, by which a program could make sockets
// without a system call, is switched off (ENOSYS).
//
// Names resolve in the stack: in a mount namespace of its own the program
// sees the stack's files over /etc, and not the sockets of name services of
// the host, which would ask in the host's network.
//
// With the rights to do so (root), all this is prepared in the calling
// process, which then becomes the program: nothing stays in between.
// Otherwise the mount namespace needs a user namespace, which only a
// single-threaded child can enter; the caller then waits for that child and
// stands in for it.
//
// What is not as without us: a handler without SA_RESTART can make socket(2)
// fail with EINTR in the microseconds before the daemon looks at the call;
// the kernel has no way to prevent that. Of the signals that the caller
// ignores only SIGHUP and SIGINT stay ignored, since the Go runtime handles
// the others before we can look.
package launch
