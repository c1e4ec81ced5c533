// Package guardian has the process that holds connections still.
//
// Repair mode needs that the owner of a connection does nothing and that no
// packet comes in, and it leaves the socket unusable until somebody ends it.
// A daemon that did this and died would leave a frozen program, or a running
// one with a broken socket. So another process does it, which was started
// beforehand and has few capabilities: the guardian. It is the tracer of the
// frozen threads. For each connection it
//
//  1. looks who holds the socket and whether the one who asks may trace each,
//  2. takes a duplicate and gives it, with what is to be put back, to the
//     daemon in a box (below),
//  3. keeps packets away by a filter, which takes some milliseconds,
//  4. freezes the holders, and looks again until there is no new one,
//  5. turns repair mode on and saves, or waits for orders,
//  6. ends repair mode, puts SO_REUSEADDR and the filter back, and then lets
//     the holders go.
//
// Whoever is killed, all that is undone within a second:
//
//   - the daemon: its end of the control socket closes, and the guardian does
//     step 6 for everything and ends;
//   - the guardian: the kernel lets the threads go, and the daemon does the
//     rest with the socket in the box. Until then, some milliseconds, the
//     owner can see EPERM or EINVAL on the socket. A guardian that does not
//     answer is killed;
//   - the owner: the guardian keeps the socket, in repair mode, and so its
//     end is silent until step 6 or until the connection is discarded.
//
// A box is one end of a socketpair with the socket in a message that waits to
// be received. Nothing in a message is in the daemon's file table, so the
// daemon never counts among those who hold a connection.
package guardian
