/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * stackfs.h: the node ABI of stackfs, for every language.
 *
 * A stack is a directory of a stackfs mount. Open it for reading (this is
 * the permission check: EACCES) and issue the ioctls below on it, but for
 * STACKFS_IOC_RESTORE.
 *
 * Nothing here holds a pointer, a bitfield or a long, every structure has
 * the same layout on 32 and 64 bit, and every reserved field must be zero
 * (EINVAL). A FUSE ioctl carries exactly _IOC_SIZE bytes: use the commands
 * as they are. Numbers are never reused.
 */
#ifndef _STACKFS_H
#define _STACKFS_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define STACKFS_ABI_MAJOR	1
#define STACKFS_ABI_MINOR	2

/*
 * STACKFS_IOC_VERSION: ask for the ABI of the daemon. Issue it first: any
 * other file system answers ENOTTY. A client works with every minor number
 * of the major number that it was built for, and looks at the features
 * before it uses what a later minor number brought.
 */
struct stackfs_version {
	__u32 major;			/* out: STACKFS_ABI_MAJOR */
	__u32 minor;			/* out: STACKFS_ABI_MINOR */
	__aligned_u64 features;		/* out: STACKFS_FEATURE_* */
	__u32 resv[4];
};

/* version.features */
#define STACKFS_FEATURE_CONNS	(1U << 0) /* connections are files; STACKFS_IOC_RESTORE (minor 1) */

#define STACKFS_FEATURE_FAST	(1U << 1) /* STACKFS_IOC_LISTEN on stacks of kind "fast" (minor 2) */

/* Kinds of stacks, as the file "type" of the node names them. */
#define STACKFS_KIND_KERNEL	1	/* the host's own stack */
#define STACKFS_KIND_NETNS	2	/* a network namespace */
#define STACKFS_KIND_NULL	3	/* no families at all */
#define STACKFS_KIND_FAST	4	/* per-core listen tables */

/* info.flags */
#define STACKFS_INFO_SELF	(1U << 0) /* this stack is the caller's own netns */
#define STACKFS_INFO_FOREIGN	(1U << 1) /* serves callers of other namespaces */
#define STACKFS_INFO_ETC	(1U << 2) /* the node has files for /etc */

/*
 * STACKFS_IOC_INFO: what this stack is.
 * ENODEV: the stack is gone.
 */
struct stackfs_info {
	__u32 kind;			/* out: STACKFS_KIND_* */
	__u32 flags;			/* out: STACKFS_INFO_* */
	__aligned_u64 families;		/* out: bit n is set for address family n */
	__aligned_u64 netns_cookie;	/* out: SO_NETNS_COOKIE of its sockets; 0: unknown */
	char name[64];			/* out: NUL terminated */
	__u32 resv[4];
};

/* msocket.flags */
#define STACKFS_MSOCKET_MAKE	(1U << 0) /* never answer STACKFS_RESULT_SELF */

/* msocket.result */
#define STACKFS_RESULT_SENT	0	/* the socket waits in the channel */
#define STACKFS_RESULT_SELF	1	/* call socket(2): this stack is your own */

/*
 * STACKFS_IOC_MSOCKET: open a socket in this stack and a channel to it.
 *
 * The caller makes a socketpair(AF_UNIX, SOCK_SEQPACKET), keeps one end and
 * names the other by number and SO_COOKIE; it closes that end after the
 * call. On STACKFS_RESULT_SENT a struct stackfs_chan_rep with seq 0 and the
 * socket (SCM_RIGHTS) waits on the kept end. Unless the reply has
 * STACKFS_CHAN_CLOSED set a second descriptor comes with it, the channel, on
 * which further sockets of the same stack can be asked for with struct
 * stackfs_chan_req; who receives one descriptor only goes without. The pair
 * is then of no further use.
 *
 * On STACKFS_RESULT_SELF the stack is the network namespace of the caller
 * (or domain is AF_UNIX): it calls socket(2) itself. If the socket's
 * SO_NETNS_COOKIE is then not that of STACKFS_IOC_INFO, something stands
 * between (a seccomp supervisor): close it, ask again with
 * STACKFS_MSOCKET_MAKE.
 *
 * type is as in socket(2), SOCK_CLOEXEC and SOCK_NONBLOCK included; type -1
 * probes: EINVAL says that the family is there.
 *
 * EAFNOSUPPORT: the stack lacks the domain. EPROTONOSUPPORT, EINVAL, ...:
 * as socket(2). EPERM: the caller lacks the capability over this stack and
 * no grant gives it. EACCES: this stack serves its own namespace only, or
 * ping_group_range forbids. EBADF: reply_fd is not open, or not the socket
 * with that cookie. ENOTSOCK, EPROTOTYPE: reply_fd is no socket, no
 * AF_UNIX SOCK_SEQPACKET one. EMFILE: the caller's uid has too many
 * channels. EAGAIN: it has too many requests at a time, try again. ENODEV:
 * the stack is gone.
 */
struct stackfs_msocket {
	__s32 domain;			/* in */
	__s32 type;			/* in */
	__s32 protocol;			/* in */
	__u32 flags;			/* in: STACKFS_MSOCKET_* */
	__aligned_u64 reply_cookie;	/* in: SO_COOKIE of reply_fd */
	__s32 reply_fd;			/* in: the end of the pair to give away */
	__u32 result;			/* out: STACKFS_RESULT_* */
	__u32 resv[4];
};

/*
 * STACKFS_IOC_RUN: let this stack answer the socket() calls of a process
 * tree, by the listener of a seccomp filter (SECCOMP_FILTER_FLAG_NEW_LISTENER)
 * that returns SECCOMP_RET_USER_NOTIF for them.
 *
 * listener_fd -1 is for a process that is under such a filter already (the
 * kernel allows one listener): the answer is a ticket, good for a few
 * seconds, which the process hands in by calling
 *	socket(STACKFS_RUN_DOMAIN, ticket & 0xffffffff, ticket >> 32)
 * From then on (the call returned 0) it and its children are on this stack.
 * ESRCH from that call: the ticket is not good (0 never is); EAFNOSUPPORT:
 * there is no supervisor of stackfs above.
 *
 * EBADF: listener_fd is not open. EINVAL: it is no seccomp listener, or no
 * families. EACCES: as STACKFS_IOC_MSOCKET. EMFILE: too many for this uid.
 * EAGAIN: too many tickets of this uid are waiting.
 */
struct stackfs_run {
	__s32 listener_fd;		/* in; -1: give a ticket */
	__u32 flags;			/* in: none defined yet */
	__aligned_u64 families;		/* in: families that go to this stack */
	__aligned_u64 ticket;		/* out */
	__u32 resv[4];
};
#define STACKFS_RUN_DOMAIN	0x73746b66

/*
 * STACKFS_IOC_RESTORE: make a socket of this stack from the image of a
 * connection. Since minor 1 (STACKFS_FEATURE_CONNS).
 *
 * This one is issued not on the directory but on its file "restore", opened
 * for writing, after the whole image was written to that same open file.
 * (STACKFS_IOC_VERSION works there, too.) The socket is sent as by
 * STACKFS_IOC_MSOCKET: a struct stackfs_chan_rep with seq 0 and
 * STACKFS_CHAN_CLOSED, and the socket (SCM_RIGHTS), wait on the end of the
 * pair that the caller kept. After a failure reading the open file gives the
 * reason in words ("error: ..."), and the image is still there for another
 * try; a failure is never seen by the peer of the connection.
 *
 * Writing the image: EFBIG: it is too large. ENOBUFS: open files of this uid
 * hold too much of the daemon's memory. EBUSY: it is being restored.
 *
 * The command: EBADMSG: what was written is damaged, cut short, or no image.
 * EPROTONOSUPPORT: the image is of a later version. EINVAL: it describes no
 * connection, or flags or resv are not zero. EPERM: without CAP_NET_ADMIN
 * over the stack the caller may restore only what this installation sealed
 * for him, and once. EACCES: as STACKFS_IOC_MSOCKET, or the caller may not
 * bind the port. EADDRNOTAVAIL: the stack has not the local address.
 * EADDRINUSE: there is such a connection. EOPNOTSUPP: saving and restoring
 * are turned off, or the kernel lacks what the connection had. EBUSY: another
 * command on this open file is at work. EBADF, ENOTSOCK, EPROTOTYPE: as
 * STACKFS_IOC_MSOCKET. EAGAIN: the caller's uid has too many requests at a
 * time, try again. EINTR: a signal came, nothing was done. ENODEV: the stack
 * is gone.
 */
struct stackfs_restore {
	__aligned_u64 reply_cookie;	/* in: SO_COOKIE of reply_fd */
	__s32 reply_fd;			/* in: the end of the pair to give away */
	__u32 flags;			/* in: none defined yet */
	__u32 resv[4];
};

/*
 * STACKFS_IOC_LISTEN: make a listener one of several, one for each CPU. Only
 * on stacks of kind "fast". Since minor 2 (STACKFS_FEATURE_FAST).
 *
 * The caller names a TCP socket of its own that is bound and about to listen,
 * or listens and has SO_REUSEPORT, by number and SO_COOKIE. The daemon sets
 * SO_REUSEPORT on it, lets connections that wait in the queue of a listener
 * that is closed move to another one of the group, and makes clones: sockets
 * of the same owner with the same options, bound to the same address, which
 * do not listen yet. A clone is for one worker (a process or thread that
 * accepts), which tags it with its CPU (SO_INCOMING_CPU), calls listen(2) on
 * it and keeps it to itself: it is to be closed with the worker.
 *
 * The answer comes as by STACKFS_IOC_MSOCKET: a struct stackfs_chan_rep with
 * seq 0 and two descriptors, the box and the page. The box is a SOCK_SEQPACKET
 * socket in which the clones wait, one in each message (struct stackfs_clone,
 * SCM_RIGHTS): whoever has it, children of the caller too, takes one by
 * receiving it, without the daemon and whatever rights it has by then. Who
 * has taken one asks for another in its place by sending STACKFS_BOX_MORE, one
 * byte, without waiting for it; at most box_size are in the box. Clones that
 * nobody took go with the last copy of the box. At its end of file the daemon
 * is gone, or the group was ended: no more clones come, all others go on.
 *
 * The page is a sealed memfd to be mapped shared: struct stackfs_page. The
 * workers write to it, so that they find their CPUs and see each other's
 * load; the daemon shows it in the file status and believes none of it.
 *
 * EOPNOTSUPP: the stack is of another kind. EBADF: listener_fd is not open or
 * has another cookie. ENOTSOCK, EPROTOTYPE: it is no TCP socket over IPv4 or
 * IPv6. EPROTONOSUPPORT: it is one of MPTCP, which cannot be part of a group.
 * EINVAL: it is not bound, is connected, or listens without SO_REUSEPORT.
 * EXDEV: it is of another network namespace. EPERM: another user owns it.
 * EADDRINUSE: no clone can be bound: another user has a listener there.
 * EMFILE: the caller's uid has too many groups. EAGAIN, EACCES, ENODEV, and
 * for reply_fd EBADF, ENOTSOCK, EPROTOTYPE: as STACKFS_IOC_MSOCKET.
 */
struct stackfs_listen {
	__aligned_u64 reply_cookie;	/* in: SO_COOKIE of reply_fd */
	__s32 reply_fd;			/* in: the end of the pair to give away */
	__s32 listener_fd;		/* in */
	__aligned_u64 listener_cookie;	/* in: SO_COOKIE of listener_fd */
	__u32 flags;			/* in: none defined yet */
	__u32 box_size;			/* out: clones in the box */
	__u32 resv[4];
};

/* A message in the box. */
struct stackfs_clone {
	__aligned_u64 cookie;		/* SO_COOKIE of the socket that comes with it */
	__u32 resv[2];
};

#define STACKFS_BOX_MORE	'm'

/*
 * The page: one slot for each CPU that the machine can have, numbered like
 * them. All fields but the first four are read and written atomically.
 */
#define STACKFS_PAGE_MAGIC	0x73746670
#define STACKFS_PAGE_VERSION	1

/* page.reason: why steering is as it is. */
#define STACKFS_STEER_NONE	0	/* there are not two workers yet */
#define STACKFS_STEER_BALANCED	1	/* on */
#define STACKFS_STEER_SKEWED	2	/* off: most connections arrive on few CPUs */
#define STACKFS_STEER_OFF	3	/* off: spawn mode 0, or none of the workers has a CPU */

/* slot.flags */
#define STACKFS_SLOT_TAGGED	(1U << 0) /* its listener has SO_INCOMING_CPU */
#define STACKFS_SLOT_PINNED	(1U << 1) /* the library pinned the worker to the CPU */

struct stackfs_slot {
	__u32 tid;			/* of the worker, in its pid namespace; 0: none */
	__u32 flags;			/* STACKFS_SLOT_* */
	__aligned_u64 clone;		/* cookie of its listener */
	__aligned_u64 local;		/* accepted by it, of what arrived on this CPU */
	__aligned_u64 remote;		/* accepted by it, of what arrived on others */
	__aligned_u64 arrived;		/* on this CPU, whoever accepted it; may be an estimate */
	__aligned_u64 resv[3];
};

struct stackfs_page {
	__u32 magic;			/* STACKFS_PAGE_MAGIC */
	__u32 version;			/* STACKFS_PAGE_VERSION */
	__u32 slots;			/* slots that follow */
	__u32 resv0;
	__u32 workers;			/* slots that are taken */
	__u32 mode;			/* spawn mode: 0, 1, 2 */
	__u32 reason;			/* STACKFS_STEER_* */
	__u32 resv1;
	__aligned_u64 since;		/* of reason; CLOCK_MONOTONIC, nanoseconds */
	__aligned_u64 shared;		/* accepted from the original listener */
	__aligned_u64 resv2[10];
	/* struct stackfs_slot [slots] */
};

#define STACKFS_IOC_VERSION	_IOWR('S', 0xc0, struct stackfs_version)
#define STACKFS_IOC_INFO	_IOWR('S', 0xc1, struct stackfs_info)
#define STACKFS_IOC_MSOCKET	_IOWR('S', 0xc2, struct stackfs_msocket)
#define STACKFS_IOC_RUN		_IOWR('S', 0xc3, struct stackfs_run)
#define STACKFS_IOC_RESTORE	_IOWR('S', 0xc4, struct stackfs_restore)
#define STACKFS_IOC_LISTEN	_IOWR('S', 0xc5, struct stackfs_listen)

/*
 * The channel. One message, one request; the answers come in order. A
 * message of another size, or with descriptors, closes the channel or is
 * refused (EPERM). Only internet stream and
 * datagram sockets of the default protocol, TCP, UDP and MPTCP are made
 * here; for anything else, and when the sender's real user or group is no
 * longer the one that opened the channel, the error is ESTALE: use the ioctl.
 * The sockets belong to the effective user who opened the channel. At
 * end of file the stack or the daemon is gone: open the node again.
 */
struct stackfs_chan_req {
	__u32 seq;			/* comes back in the reply; not 0 */
	__u32 flags;			/* none defined yet: 0 */
	__s32 domain;
	__s32 type;
	__s32 protocol;
	__u32 resv;
};

/* chan_rep.flags */
#define STACKFS_CHAN_CLOSED	(1U << 0) /* no further requests on this channel */

struct stackfs_chan_rep {
	__u32 seq;
	__s32 error;			/* 0: the message carries the socket; else an errno */
	__u32 flags;			/* STACKFS_CHAN_* */
	__u32 resv;
};

#endif /* _STACKFS_H */
