/* SPDX-License-Identifier: MIT */
/*
 * fsocket.h: what the files of libfsocket share.
 *
 * A program's listening descriptor stays what it is: the original, which all
 * its workers have and wait on. A worker (a process or thread that accepts)
 * has besides a clone of it, a listener of its own for the CPU that it runs
 * on. The hooks let the program see both as one.
 *
 * Listeners are few and made seldom, so whatever changes them happens under
 * one lock. What happens for each connection takes none, and what happens for
 * descriptors that are no listeners is one look into a table.
 */
#ifndef _FSOCKET_H
#define _FSOCKET_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <poll.h>

#include "../uapi/stackfs.h"

#define hidden __attribute__((visibility("hidden")))
#define hook __attribute__((visibility("default")))

/* ---- real.c: the functions behind the hooks ---- */

#define REAL_CALLS(X) \
	X(listen) X(accept) X(accept4) X(close) X(shutdown) X(fcntl) X(fcntl64) X(ioctl) \
	X(dup2) X(dup3) X(close_range) X(closefrom) X(connect) \
	X(epoll_ctl) X(poll) X(ppoll) X(select) X(pselect)

#define REAL_ENUM(fn) REAL_##fn,
enum real_call { REAL_CALLS(REAL_ENUM) REAL_COUNT };

hidden void *real_find(enum real_call call);
hidden void real_find_all(void);

#define REAL(fn) ((__typeof__(fn) *)real_find(REAL_##fn))

/* ---- node.c: the stack ---- */

/* What STACKFS_IOC_LISTEN answers. */
struct spawned {
	int box;
	struct stackfs_page *page;
};

/* 0, or a negated errno: the listener then has no clones. */
hidden int node_listen(const char *node, int fd, uint64_t cookie, struct spawned *got);

/* A clone out of the box, or a negated errno; EAGAIN: there is none now. */
hidden int box_take(int box, uint64_t box_cookie);

/* ---- device.c: the kernel module ---- */

hidden bool device_exists(void);

/* As node_listen; there is no box, but -1. */
hidden int device_listen(struct spawned *got);

/* A clone of the listener fd for a CPU, or a negated errno. It listens. */
hidden int device_take(int fd, int cpu);

/* ---- table.c: the listeners ---- */

#define TABLE_SIZE	65536	/* descriptors from here on are left alone */
#define SEAT_EPOLLS	8

/* How a program waits for a listener by epoll. */
struct wait {
	int epfd;		/* -1: unused */
	struct epoll_event ev;	/* as the program gave it */
};

/*
 * A worker's place at a listener. It belongs to one thread, which alone
 * changes it, but for the clone: that goes when another thread closes the
 * listener.
 */
struct seat {
	struct seat *next;	/* of the record; never changes */
	_Atomic(pid_t) tid;	/* 0: free */
	_Atomic(int) clone;	/* descriptor; -1: none */
	int cpu;		/* -1: there was none for it */
	bool tagged;		/* the clone has SO_INCOMING_CPU */
	bool pinned;		/* by us */
	bool blocks;		/* waits in accept(2) */
	uint64_t cookie;	/* of the clone */
	cpu_set_t user_mask;	/* where the thread could run before */
	unsigned int turn;	/* accepts */
	unsigned int sample;	/* of connections whose CPU is not known */
	uint64_t retry;		/* no clone before; coarse nanoseconds */
	struct wait waits[SEAT_EPOLLS];
};

/* A listener. One for each number that was one, and never freed. */
struct record {
	_Atomic(uint32_t) gen;	/* odd: in use */
	int fd;
	uint64_t cookie;
	int backlog;
	int box;		/* -1: closed */
	uint64_t box_cookie;
	_Atomic(struct stackfs_page *) page;
	_Atomic(struct seat *) seats;
	_Atomic(bool) blocking;	/* the program thinks that accept(2) blocks */
	_Atomic(bool) forced;	/* we have made it non-blocking */
};

extern hidden _Atomic(struct record *) table[TABLE_SIZE];
extern hidden bool enabled;

/* The listener of a number; NULL for all others. */
static inline struct record *record_of(int fd)
{
	struct record *r;

	if ((unsigned int)fd >= TABLE_SIZE)
		return NULL;
	r = atomic_load_explicit(&table[fd], memory_order_acquire);
	if (!r || !(atomic_load_explicit(&r->gen, memory_order_acquire) & 1))
		return NULL;
	return r;
}

hidden void record_make(int fd, int backlog);
hidden void record_drop(int fd);
hidden void record_lost(int fd);		/* the program closes a descriptor of ours */
hidden void ours_set(int fd, bool on);	/* marks descriptors of ours */
hidden void record_backlog(struct record *r, int backlog);
hidden void record_shutdown(struct record *r, int how);
hidden void table_lock(void);
hidden void table_unlock(void);
hidden void debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- seat.c: workers ---- */

hidden struct seat *seat_get(struct record *r);	/* makes one; NULL: no memory */
hidden struct seat *seat_known(struct record *r);	/* this thread's; NULL: none */
hidden void seat_upgrade(struct record *r, struct seat *s);
hidden void seat_clone_gone(struct record *r, struct seat *s);
hidden void seat_leave(struct record *r, struct seat *s);
hidden void seats_forked(void);
hidden void seats_start(void);

static inline struct stackfs_slot *page_slot(struct stackfs_page *p, int cpu)
{
	return (struct stackfs_slot *)(p + 1) + cpu;
}

/* Are there workers enough that clones are of use? */
static inline bool crowded(struct record *r)
{
	struct stackfs_page *p = atomic_load_explicit(&r->page, memory_order_relaxed);

	return p && __atomic_load_n(&p->workers, __ATOMIC_RELAXED) >= 2;
}

/* ---- steer.c: which CPU connections come from ---- */

hidden void steer_accepted(struct record *r, struct seat *s, int fd, bool cloned);
hidden void steer_on(struct record *r, struct seat *s);
hidden void steer_off(struct record *r, struct seat *s);
hidden uint64_t coarse_ns(void);

/* ---- epoll.c ---- */

hidden int wait_add(struct record *r, struct seat *s, const struct wait *w);
hidden void wait_exclusive(struct record *r, const struct wait *w);

#endif /* _FSOCKET_H */
