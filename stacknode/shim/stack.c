// SPDX-License-Identifier: MIT
/*
 * stack.c: which way a socket of a stack is made: by ourselves when the
 * stack is our own network namespace, over an open channel, or by ioctl.
 */
#include <string.h>
#include <sys/mman.h>

#include "../uapi/stackfs.h"
#include "shim.h"
#include "sys.h"

/* Paths beyond this many get no channel unless they are a default. */
#define STACKS_CACHED	64

/* stack_ask: the caller is to make the socket. No errno is that large. */
#define ASK_SELF	(-5000)

static _Atomic(struct stack *) stacks;
static atomic_int stack_count;

struct stack *stack_first(void)
{
	return atomic_load_explicit(&stacks, memory_order_acquire);
}

static struct stack *stack_new(const char *path)
{
	size_t len = strlen(path) + 1;
	struct stack *st;

	/* Zero pages: every channel is CHAN_NONE. */
	st = mmap(NULL, sizeof(*st) + len, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (st == MAP_FAILED)
		return NULL;
	st->path = memcpy(st + 1, path, len);
	st->cached = true;
	return st;
}

/*
 * The entry for an absolute path, made if need be. NULL if there is no
 * memory or, unless it is a must, if there are too many. Two threads may
 * make the same entry; the older one then just has no further users.
 */
struct stack *stack_find(const char *path, bool must)
{
	struct stack *st;

	for (st = stack_first(); st; st = st->next) {
		if (!strcmp(st->path, path))
			return st;
	}
	if (!must && atomic_load(&stack_count) >= STACKS_CACHED)
		return NULL;
	st = stack_new(path);
	if (!st)
		return NULL;
	atomic_fetch_add(&stack_count, 1);
	st->next = stack_first();
	while (!atomic_compare_exchange_weak(&stacks, &st->next, st))
		;
	return st;
}

static bool stack_is_self(struct stack *st, int domain)
{
	if (domain < 0 || domain >= FAMILIES || !atomic_load(&st->self_cookie))
		return false;
	return atomic_load(&st->self_families) >> domain & 1;
}

/*
 * A socket of our own namespace, if that is still the stack: after setns(2)
 * or below a seccomp supervisor it is not, and the answer is -EXDEV. So it
 * is when socket(2) fails: the daemon may know better (grants), and below a
 * supervisor the error was another stack's.
 */
static int stack_self_socket(struct stack *st, const struct ask *ask)
{
	int fd = shim_local_socket(ask);

	switch (fd) {
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM:
	case -ENOBUFS:
		return fd;
	}
	if (fd < 0)
		return -EXDEV;
	/* Since 5.14; on older kernels the daemon makes the socket. */
	if (fd_option64(fd, SO_NETNS_COOKIE) == atomic_load(&st->self_cookie))
		return fd;
	fd_close(fd);
	return -EXDEV;
}

/* What was a stack and cannot be found is gone. */
int stack_error(struct stack *st, int err)
{
	switch (err) {
	case -ENODEV:
	case -ENOENT:
	case -ENOTSUP:
		atomic_store(&st->checked, false);
		return atomic_load(&st->seen) ? -ENODEV : err;
	}
	return err;
}

static int stack_ioctl(struct stack *st, struct chan *c, const struct ask *ask,
		       unsigned int flags)
{
	struct answer ans;
	int ret = node_ask(st->path, atomic_load(&st->checked), ask, flags, c, &ans);

	if (ret < 0)
		return stack_error(st, ret);
	atomic_store(&st->checked, true);
	atomic_store(&st->seen, true);
	if (ans.sock >= 0)
		return ans.sock;
	atomic_store(&st->self_families, ans.self_families);
	atomic_store(&st->self_cookie, ans.self_cookie);
	return ASK_SELF;
}

static int stack_ask(struct stack *st, const struct ask *ask, unsigned int flags)
{
	struct chan *c = chan_serves(ask) ? chan_take(st) : NULL;
	struct chan once = { .fd = -1, .give = -1 };
	int ret = CHAN_DEAD;

	if (!c) {
		ret = stack_ioctl(st, &once, ask, flags);
		chan_close(&once);
		return ret;
	}
	if (c->fd >= 0)
		ret = chan_ask(c, ask);
	if (ret == CHAN_DEAD || ret == -ESTALE)
		ret = stack_ioctl(st, c, ask, flags);
	chan_put(st, c);
	return ret;
}

/* A socket in st, or a negated errno; never one of another stack. */
int stack_socket(struct stack *st, const struct ask *ask)
{
	unsigned int flags = 0;
	int ret;

	if (stack_is_self(st, ask->domain)) {
		ret = stack_self_socket(st, ask);
		if (ret != -EXDEV)
			return ret;
		flags = STACKFS_MSOCKET_MAKE;
	}
	ret = stack_ask(st, ask, flags);
	if (ret != ASK_SELF)
		return ret;
	ret = stack_self_socket(st, ask);
	if (ret != -EXDEV)
		return ret;
	return stack_ask(st, ask, STACKFS_MSOCKET_MAKE);
}

/*
 * Only absolute paths keep what was learned: a relative one means something
 * else after chdir(2).
 */
int stack_path_socket(const char *path, const struct ask *ask)
{
	struct stack *st = path[0] == '/' ? stack_find(path, false) : NULL;
	struct stack once = { .path = path };
	int ret;

	if (ask->domain == AF_UNIX) {
		/* Names in the file system, not in a stack. */
		ret = node_check(path);
		return ret < 0 ? ret : shim_local_socket(ask);
	}
	return stack_socket(st ? st : &once, ask);
}
