// Package stacknode models network stacks with names, owners and modes, and
// the rules by which a caller gets a socket of one. It makes no system
// call: a [Backend] does.
//
// A [Registry] holds the stacks of one mount. A [Stack] is a named Backend
// with a lifecycle. Whatever identifies the process that asks comes in a
// [Caller]; whoever built it vouches for it.
package stacknode
