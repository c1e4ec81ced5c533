// Package peer tells who a caller is. The kernel names a thread; everything
// else (ids, groups, capabilities, namespaces) is read while that thread
// waits for an answer, so that it can neither change nor be replaced by
// another of the same number.
package peer
