// SPDX-License-Identifier: MIT
/*
 * chan.c: the open channels of a stack.
 *
 * A channel belongs to the process that opened it. After fork the child has
 * the same descriptors: it closes them and opens its own, else parent and
 * child would read each other's replies. A child of vfork runs in the
 * parent's memory with descriptors of its own and leaves the table alone.
 */
#include <netinet/in.h>
#include <string.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "../uapi/stackfs.h"
#include "shim.h"
#include "sys.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP	262	/* since 5.6 */
#endif

#define OWNER_RESETTING	(-1)

/* How long to wait for a channel that another thread uses: a second. */
#define TAKE_SLICES	20
#define TAKE_SLICE_NS	50000000

/* Pid of the process whose channels these are; reads as 0 after fork. */
static _Atomic(_Atomic(pid_t) *) owner_page;

static _Atomic(pid_t) *owner_get(void)
{
	_Atomic(pid_t) *owner = atomic_load(&owner_page);
	_Atomic(pid_t) *none = NULL;

	if (owner)
		return owner;
	owner = mmap(NULL, sizeof(*owner), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (owner == MAP_FAILED)
		return NULL;
	/* Since 4.14. On older kernels children find a foreign pid instead. */
	madvise((void *)owner, sizeof(*owner), MADV_WIPEONFORK);
	if (atomic_compare_exchange_strong(&owner_page, &none, owner))
		return owner;
	munmap((void *)owner, sizeof(*owner));
	return none;
}

static void chan_drop_all(void)
{
	for (struct stack *st = stack_first(); st; st = st->next) {
		for (int i = 0; i < STACK_CHANS; i++) {
			struct chan *c = &st->chan[i];

			if (atomic_load(&c->state) != CHAN_NONE) {
				chan_close(c);
				chan_given(c);
			}
			atomic_store(&c->state, CHAN_NONE);
		}
		/* Who waited is not in this process. */
		atomic_store(&st->waiting, 0);
	}
}

/* May this process use the table? */
static bool chan_owned(void)
{
	_Atomic(pid_t) *owner = owner_get();
	pid_t me = syscall(SYS_getpid);	/* libc once cached it */
	pid_t seen;

	if (!owner)
		return false;
	seen = atomic_load_explicit(owner, memory_order_acquire);
	if (seen)
		return seen == me;
	if (!atomic_compare_exchange_strong(owner, &seen, OWNER_RESETTING))
		return false;
	chan_drop_all();
	atomic_store_explicit(owner, me, memory_order_release);
	return true;
}

/* Claims the table before a child of vfork can. */
void chan_start(void)
{
	int err = errno;

	chan_owned();
	errno = err;
}

/*
 * In the child of fork(3): give the parent's channels back at once, so that
 * they end with the parent. The page is wiped and chan_owned sees it.
 */
void chan_forked(void)
{
	chan_start();
}

/* The internet sockets that need no rights; see struct stackfs_chan_req. */
bool chan_serves(const struct ask *ask)
{
	if (ask->domain != AF_INET && ask->domain != AF_INET6)
		return false;
	switch (ask->type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) {
	case SOCK_STREAM:
		return ask->protocol == 0 || ask->protocol == IPPROTO_TCP ||
		       ask->protocol == IPPROTO_MPTCP;
	case SOCK_DGRAM:
		return ask->protocol == 0 || ask->protocol == IPPROTO_UDP;
	}
	return false;
}

static bool chan_claim(struct chan *c, enum chan_state from)
{
	return atomic_load_explicit(&c->state, memory_order_relaxed) == from &&
	       atomic_compare_exchange_strong(&c->state, &from, CHAN_BUSY);
}

static struct chan *chan_try(struct stack *st)
{
	for (int i = 0; i < STACK_CHANS; i++) {
		if (chan_claim(&st->chan[i], CHAN_OPEN))
			return &st->chan[i];
	}
	for (int i = 0; i < STACK_CHANS; i++) {
		if (chan_claim(&st->chan[i], CHAN_NONE)) {
			st->chan[i].fd = st->chan[i].give = -1;
			return &st->chan[i];
		}
	}
	return NULL;
}

/*
 * An open channel or, with fd -1, a place for one; give it back with
 * chan_put. If all are taken, waits for one, which is cheaper for the daemon
 * than a channel for one socket, but not for ever: they may be taken by what
 * this signal handler interrupted. Then NULL.
 */
struct chan *chan_take(struct stack *st)
{
	const struct timespec slice = { .tv_nsec = TAKE_SLICE_NS };
	struct chan *c;

	if (!st->cached || !chan_owned())
		return NULL;
	for (int i = 0; i < TAKE_SLICES; i++) {
		uint32_t turn;

		c = chan_try(st);
		if (c)
			return c;
		atomic_fetch_add(&st->waiting, 1);
		turn = atomic_load(&st->turn);
		c = chan_try(st);
		if (!c)
			SYS(futex, &st->turn, FUTEX_WAIT_PRIVATE, turn, &slice, NULL, 0);
		atomic_fetch_sub(&st->waiting, 1);
		if (c)
			return c;
	}
	return NULL;
}

void chan_put(struct stack *st, struct chan *c)
{
	atomic_store(&c->state, c->fd < 0 ? CHAN_NONE : CHAN_OPEN);
	if (atomic_load(&st->waiting) == 0)
		return;
	atomic_fetch_add(&st->turn, 1);
	SYS(futex, &st->turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* The program may have closed our number and opened a file of its own on it. */
static bool fd_is_ours(int fd, uint64_t cookie)
{
	return fd >= 0 && fd_cookie(fd) == cookie;
}

void chan_close(struct chan *c)
{
	if (fd_is_ours(c->fd, c->cookie))
		fd_close(c->fd);
	c->fd = -1;
}

/*
 * Closes the daemon's end. Were a child to keep a copy, we would wait for a
 * dead daemon as long as that child lives.
 */
void chan_given(struct chan *c)
{
	if (fd_is_ours(c->give, c->give_cookie))
		fd_close(c->give);
	c->give = -1;
}

/* A new pair to give one end of away. */
int chan_pair(struct chan *c)
{
	int pair[2];
	int ret = SYS(socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);

	if (ret < 0)
		return ret;
	c->cookie = fd_cookie(pair[0]);
	c->give_cookie = fd_cookie(pair[1]);
	c->fd = pair[0];
	c->give = pair[1];
	return 0;
}

/* The descriptors in a message, or -1. */
static void msg_descriptors(struct msghdr *msg, int fds[2])
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
	size_t len;

	fds[0] = fds[1] = -1;
	if (!cmsg || cmsg->cmsg_level != SOL_SOCKET ||
	    cmsg->cmsg_type != SCM_RIGHTS || cmsg->cmsg_len < CMSG_LEN(sizeof(int)))
		return;
	len = cmsg->cmsg_len - CMSG_LEN(0);
	memcpy(fds, CMSG_DATA(cmsg), len < 2 * sizeof(int) ? len : 2 * sizeof(int));
}

static void fd_drop(int fd)
{
	if (fd >= 0)
		fd_close(fd);
}

/*
 * Takes the answer to request seq. Returns the socket, the daemon's errno
 * negated, or CHAN_DEAD. The answer to the ioctl (seq 0) has a second
 * descriptor, the channel: it goes to *chan, else -1.
 */
int chan_recv(int fd, uint32_t seq, bool cloexec, uint32_t *flags, int *chan)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(2 * sizeof(int))];
	} ctl;
	struct stackfs_chan_rep rep;
	struct iovec iov = { .iov_base = &rep, .iov_len = sizeof(rep) };
	struct msghdr msg;
	int n, sock, fds[2];

	if (chan)
		*chan = -1;
	for (;;) {
		/* CMSG_LEN, not CMSG_SPACE: that may have room for one more. */
		msg = (struct msghdr){
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = &ctl,
			.msg_controllen = CMSG_LEN((chan ? 2 : 1) * sizeof(int)),
		};
		n = SYS(recvmsg, fd, &msg, cloexec || chan ? MSG_CMSG_CLOEXEC : 0);
		if (n == -EINTR)
			continue;
		if (n <= 0)
			return CHAN_DEAD;
		msg_descriptors(&msg, fds);
		sock = fds[0];
		if (n == sizeof(rep) && rep.seq == seq)
			break;
		/* An answer that a jump out of a signal handler left behind. */
		fd_drop(sock);
		fd_drop(fds[1]);
		if (n != sizeof(rep))
			return CHAN_DEAD;
	}
	*flags = rep.flags;
	if (rep.error) {
		fd_drop(sock);
		fd_drop(fds[1]);
		return rep.error > 0 && rep.error < 4096 ? -rep.error : -EPROTO;
	}
	if (chan) {
		*chan = fds[1];
		if (sock >= 0 && !cloexec)
			SYS(fcntl, sock, F_SETFD, 0);
	}
	if (sock >= 0)
		return sock;
	/* The kernel drops a descriptor that it cannot install. */
	return msg.msg_flags & MSG_CTRUNC ? -EMFILE : CHAN_DEAD;
}

/* As chan_recv. The channel is closed when it is of no further use. */
int chan_ask(struct chan *c, const struct ask *ask)
{
	struct stackfs_chan_req req = {
		.domain = ask->domain,
		.type = ask->type,
		.protocol = ask->protocol,
	};
	uint32_t flags = 0;
	int ret;

	if (!fd_is_ours(c->fd, c->cookie)) {
		c->fd = -1;
		return CHAN_DEAD;
	}
	if (++c->seq == 0)	/* 0 is the answer to the ioctl */
		c->seq = 1;
	req.seq = c->seq;
	do {
		ret = SYS(sendto, c->fd, &req, sizeof(req), MSG_NOSIGNAL, NULL, 0);
	} while (ret == -EINTR);
	if (ret == sizeof(req))
		ret = chan_recv(c->fd, req.seq, ask->type & SOCK_CLOEXEC, &flags,
				NULL);
	else
		ret = CHAN_DEAD;
	/* ESTALE: opened for another user than we are now. */
	if (ret == CHAN_DEAD || ret == -ESTALE || flags & STACKFS_CHAN_CLOSED)
		chan_close(c);
	return ret;
}
