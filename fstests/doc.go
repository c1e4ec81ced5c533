// Package fstests tests stackfs from the outside: with the real binary, the
// real kernel and real programs. This file and those beside it without
// _test in their name are the harness; only tests import it.
//
// A test says in its first line what it needs ([Require]) and then mounts
// ([Mount]), which also checks that nothing is left behind:
//
//	func TestSocketCrossesNamespace(t *testing.T) {
//		Require(t, FUSE, NetAdmin, Kernel("5.6", "pidfd_getfd"))
//		m := Mount(t, Config{Stacks: []string{"a", "b"}})
//		...
//	}
//
// The environment tunes it:
//
//	STACKFS_STRICT=1  a missing need fails the test instead of skipping it
//	STACKFS_OLD_KERNEL=1  but not what the kernel is too old for
//	STACKFS_BIN       the binary to test; else the one in this tree is built
//	STACKFS_SCALE     how many times slower than usual the machine is
package fstests
