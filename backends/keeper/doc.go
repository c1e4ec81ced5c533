// Package keeper has the process that stays behind when the daemon dies.
//
// The daemon answers the socket calls of stackfs run. A call that it took
// and did not answer would hang its program for ever: the kernel delivers a
// seccomp notification once. So a second process, the keeper, holds a copy
// of every listener and shares the memory ([Slots]) in which the daemon
// receives notifications. When the daemon is gone the keeper
//
//   - ends the calls in flight with ENODEV,
//   - answers further calls with ENODEV, so that no program falls back to
//     another stack and none hangs,
//   - detaches the dead mount, so that what it covered works again, and
//   - hands the listeners to the next daemon of that mount.
//
// It ends when it holds no listener any more. If both processes die, the
// kernel ends the calls with ENOSYS.
package keeper
