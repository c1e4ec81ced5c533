// Package worker makes the sockets of one stack: on threads inside its
// network namespace, with the identity and the rights of the caller.
//
// A [Worker] has one thread that lives in the namespace and serves open
// channels and the listeners of stackfs run; requests by ioctl are served
// on threads that enter the namespace for the call.
package worker
