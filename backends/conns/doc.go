// Package conns is what the stacks of TCP connections have in common: the
// table of the connections, by sock_diag(7), and what can be done with one.
//
// A [Stack] belongs to one network namespace. What is the same for all of
// them (the [Engine] that saves connections, the [Seals], the [Limits]) is in
// the [Env] of the daemon.
//
// The daemon may do anything with any connection; a caller may not. So each
// call says who asks, and rights.go has the rules:
//
//   - Who may trace every process that holds a socket, as pidfd_getfd(2) asks
//     for, may save, hold and end the connection.
//   - Who may administer the network namespace may make a connection of any
//     image. Anybody else needs one that this installation sealed for him.
package conns
