/* SPDX-License-Identifier: MIT */
/*
 * shim.h: what the files of libmsocket share.
 *
 * The library is a guest in any process: nothing here takes a lock (fork
 * could orphan it), allocates from the heap, prints, or is a cancellation
 * point. Functions return a value or a negated errno unless they say
 * otherwise; only the hooks touch errno, and only when they fail.
 */
#ifndef _SHIM_H
#define _SHIM_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <limits.h>
#include <sys/types.h>

#define EXPORT	__attribute__((visibility("default")))

/* One address family per bit of stackfs_info.families. */
#define FAMILIES	64

/* real.c: the next definition of a name we hook, looked up when needed. */
void *real_try(_Atomic(void *) *cache, const char *name);
void *real_find(_Atomic(void *) *cache, const char *name);
#define REAL(fn) ({							\
	static _Atomic(void *) cache_;					\
	(__typeof__(&fn))real_find(&cache_, #fn);			\
})

/* What socket(2) is asked for. */
struct ask {
	int domain;
	int type;
	int protocol;
};

/* A channel is used by one thread at a time. */
enum chan_state { CHAN_NONE, CHAN_OPEN, CHAN_BUSY };

struct chan {
	_Atomic(enum chan_state) state;
	int fd;				/* -1: none yet */
	uint32_t seq;
	uint64_t cookie;		/* SO_COOKIE of fd when it was ours */
};

#define STACK_CHANS	8

/*
 * A path and what this process knows of the stack there. Never freed, so
 * that readers need no lock; stack_find bounds their number.
 */
struct stack {
	struct stack *next;
	const char *path;
	bool cached;			/* false: on the caller's stack, for one call */
	atomic_bool seen;		/* there has been a stack at path */
	atomic_bool checked;		/* its ABI version is ours */
	_Atomic uint64_t self_cookie;	/* netns to find in an own socket; 0: ask */
	_Atomic uint64_t self_families;
	_Atomic uint32_t waiting;	/* threads in need of a channel */
	_Atomic uint32_t turn;		/* counts what became free for them */
	struct chan chan[STACK_CHANS];
};

/* stack.c */
struct stack *stack_find(const char *path, bool must);
struct stack *stack_first(void);
int stack_socket(struct stack *st, const struct ask *ask);
int stack_path_socket(const char *path, const struct ask *ask);

/* node.c: the ioctls of a node. */
struct stackfs_info;

struct answer {
	bool self;			/* STACKFS_RESULT_SELF, info below is set */
	int sock;
	int chan;			/* the open channel, or -1 */
	uint64_t chan_cookie;
	uint64_t self_cookie;
	uint64_t self_families;
};

int node_check(const char *path);
int node_info(const char *path, struct stackfs_info *info);
int node_ask(const char *path, bool checked, const struct ask *ask,
	     unsigned int flags, struct answer *ans);

/* chan.c */
#define CHAN_DEAD	(-EPIPE)	/* no daemon at the other end, or not ours */

bool chan_serves(const struct ask *ask);
struct chan *chan_take(struct stack *st);
void chan_put(struct stack *st, struct chan *c);
void chan_close(struct chan *c);
int chan_ask(struct chan *c, const struct ask *ask);
int chan_recv(int fd, uint32_t seq, bool cloexec, uint32_t *flags);
void chan_start(void);
void chan_forked(void);

/* defaults.c: the default stack of each family. */
struct defaults {
	bool any;
	struct stack *of[FAMILIES];
};

bool shim_off(void);
bool shim_in_run(void);
const char *shim_run_value(void);
struct stack *default_get(int domain);
bool default_snapshot(struct defaults *d);
int default_set(const char *path, int domain);
int default_clear(int domain);

/* env.c: STACKFS_DEFAULT and LD_PRELOAD as text. */
typedef int env_entry_fn(void *arg, int family, const char *text, size_t len);
int env_parse(const char *value, env_entry_fn *fn, void *arg);
int env_unescape(const char *text, size_t len, char *out, size_t size);
size_t env_render(char *out, const struct defaults *d, const char *under);
size_t env_preload(char *out, const char *self, const char *old);
const char *env_self(void);
int env_publish(const struct defaults *d);

/* image.c: may this program be executed under a default? */
int image_check(int dirfd, const char *path, int flags);

/* shim.c */
int shim_local_socket(const struct ask *ask);

#endif /* _SHIM_H */
