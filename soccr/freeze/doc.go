// Package freeze makes processes stand still and lets them go on so that they
// do not notice.
//
// It is ptrace(2): every thread is seized and interrupted, and detached at the
// end. Nothing is sent to the process and nothing in its memory is changed.
// If the freezing program dies, the kernel lets the threads go by itself.
//
// # Interrupted calls
//
// To stop a thread that sleeps in a system call the kernel interrupts the
// call. Most calls are then restarted by the kernel. Those that signal(7)
// lists as never restarted (epoll_wait(2) and its kin, semop(2),
// sigtimedwait(2), io_getevents(2), io_uring_enter(2), socket calls with
// SO_RCVTIMEO or SO_SNDTIMEO) would return EINTR to a program that got no
// signal. They are given back: the result is replaced by ERESTARTNOHAND, the
// kernel's own word for "restart, unless a handler runs". So it is the kernel
// that decides when the thread goes on, together with the delivery of
// signals: a signal with a handler makes the call return EINTR, as ever, and
// nothing else does.
//
// A call that is restarted begins its timeout anew. Therefore
//
//   - epoll_wait and epoll_pwait get what is left of it. The register with the
//     timeout (r10) then differs after the call; the compilers' calling
//     convention for functions does not keep it, and C libraries do not rely
//     on it.
//   - The other calls have a pointer to the timeout, or it is an option of
//     the socket; neither is changed. Such a call ends as if by its timeout
//     if the time is over when the thread goes on, else it begins anew: it
//     may last twice its timeout at most, however often the process is frozen.
//
// What is left is known from the time at which the thread fell asleep
// (/proc/PID/task/TID/sched), where the kernel tells it, else from the first
// time that the call was interrupted. A restarted call is told from a later
// one of the same kind by a number in the upper half of orig_rax, which the
// kernel ignores and which is gone with the call.
//
// # Limits
//
//   - A blocking write of more than fits, and a read with MSG_WAITALL, returns
//     what it did so far, as it does after SIGSTOP and SIGCONT.
//   - A request that a worker of io_uring carries out may end with EINTR. So
//     may a call to a FUSE file system, whose server is told that it was
//     interrupted, and an ioctl(2), by its driver.
//   - A thread that cannot be interrupted, in an uninterruptible sleep or as
//     the parent of a vfork(2), fails the freeze; everything is let go again.
//   - x86-64 only, kernels since 5.14, no 32-bit programs.
package freeze
