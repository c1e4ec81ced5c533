// Package snapshot saves TCP connections while they live, without touching
// them: no repair mode, no signal, no packet filter, no descriptor of the
// owner. There is nothing to undo when it dies in the middle.
//
// A BPF program runs for each TCP socket of a network namespace (the kernel's
// iterator iter/tcp). The kernel holds the lock of the socket meanwhile, so
// that neither the owner nor a packet can change it: the owner waits for the
// lock a few microseconds, or for large queues about 0.2 ms per MiB. The
// program passes over the sockets that nobody asked for. Of the others it
// copies the state and the bytes of the queues into memory that this package
// has mapped (see bpf/snapshot.bpf.c).
//
//	Take ─┐                    ┌ wanted   cookie → slot
//	Take ─┼─ batch ─ pass ─────┤ slots    one socket each: state, options
//	Take ─┘  (a namespace)     └ arena    blocks of 1 MiB: the bytes
//
// What is wanted of one namespace at a time is taken in one pass, of up to
// 512 sockets; a pass takes a few milliseconds, most of it for looking into
// the empty buckets of the kernel's table. A pass always begins after the
// request arrived. Sockets for which the arena was too full are taken in a
// further pass.
//
// The iterator waits for the lock of each socket on its way. The owner of a
// socket can hold that as long as he likes, and has no snapshots in the
// namespace meanwhile: [ErrStuck]. Other namespaces are not concerned.
//
// # What is needed
//
// Linux 6.1 or newer for x86-64 with BTF (CONFIG_DEBUG_INFO_BTF), and
// CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. kernel.unprivileged_bpf_disabled
// is of no concern then. Kernel lockdown in confidentiality mode forbids to
// read kernel memory: [New] tells so, and repair mode (soccr.Pause) is what
// remains.
//
// # What is trusted
//
// Offsets of fields come from the BTF of the running kernel. Bytes in pages
// need one number more, the distance between the kernel's map of all memory
// and its table of pages: [New] finds it with the known bytes of a connection
// of its own, and it stays as it is from then on. New then compares whole
// snapshots of such connections with what soccr reads of them in repair mode,
// and returns an error if anything differs.
//
// In each snapshot every buffer has to begin where the one before it ended,
// and the queue has to be as long as the sequence numbers tell, or it fails
// with [ErrQueue].
//
// Bytes that were sent without a copy (sendfile, splice, MSG_ZEROCOPY) are
// read where they are, like the kernel does when it sends them again.
package snapshot
