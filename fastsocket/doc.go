// Package fastsocket gives a Go server a listener for each CPU, as Fastsocket
// gives one to each worker process.
//
// The listeners have one address. Each carries the CPU that it is for
// (SO_INCOMING_CPU), and the kernel gives it the connections whose SYN that CPU
// handled. Serve accepts from each on a thread that is bound to its CPU, so
// that the connection's packets, the accept and the first step of its handler
// happen on one CPU. The Go scheduler may move the goroutine of a connection
// later: what this package gives is accept queues that no two CPUs share and
// local accepts, not CPUs that share nothing. Where most connections arrive on
// few CPUs the kernel is told to spread them over all listeners, until that
// changes.
//
// Neither a daemon nor a right is needed. The connections do not show in the
// stack "fast" of stackfs; for that, and for unmodified programs, there is
// libfsocket.
package fastsocket
