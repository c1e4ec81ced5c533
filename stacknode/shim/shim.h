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

/* real.c: the functions behind our hooks, called as REAL(socket)(...). */
#define REAL_CALLS(X)							\
	X(socket)							\
	X(stat) X(stat64) X(lstat) X(lstat64)				\
	X(fstatat) X(fstatat64) X(statx)				\
	X(__xstat) X(__xstat64) X(__lxstat) X(__lxstat64)		\
	X(__fxstatat) X(__fxstatat64)					\
	X(execve) X(execvp) X(execvpe) X(fexecve) X(execveat)		\
	X(posix_spawn) X(posix_spawnp) X(system) X(popen)

#define REAL_INDEX(fn)	REAL_##fn,
enum real_call { REAL_CALLS(REAL_INDEX) REAL_COUNT };

void *real_find(enum real_call call);
void real_find_all(void);
#define REAL(fn)	((__typeof__(&fn))real_find(REAL_##fn))

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
	uint32_t seq;
	int fd;				/* our end; -1: none */
	int give;			/* the daemon's, until it has it; -1: none */
	uint64_t cookie;		/* SO_COOKIE of fd when it was ours */
	uint64_t give_cookie;
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
int stack_error(struct stack *st, int err);
int stack_socket(struct stack *st, const struct ask *ask);
int stack_path_socket(const char *path, const struct ask *ask);

/* node.c: the ioctls of a node. */
struct stackfs_info;

struct answer {
	int sock;			/* -1 if it is to be made here, info is set */
	uint64_t self_cookie;
	uint64_t self_families;
};

int node_check(const char *path);
int node_info(const char *path, struct stackfs_info *info);
int node_ask(const char *path, bool checked, const struct ask *ask,
	     unsigned int flags, struct chan *c, struct answer *ans);

/* chan.c */
#define CHAN_DEAD	(-EPIPE)	/* no daemon at the other end, or not ours */

bool chan_serves(const struct ask *ask);
struct chan *chan_take(struct stack *st);
void chan_put(struct stack *st, struct chan *c);
int chan_pair(struct chan *c);
void chan_given(struct chan *c);
void chan_close(struct chan *c);
int chan_ask(struct chan *c, const struct ask *ask);
int chan_recv(int fd, uint32_t seq, bool cloexec, uint32_t *flags, int *chan);
void chan_start(void);
void chan_forked(void);

/* defaults.c: the default stack of each family. */
struct defaults {
	bool any;
	struct stack *of[FAMILIES];
};

bool shim_off(void);
const char *shim_run_value(void);
struct stack *default_get(int domain);
bool default_snapshot(struct defaults *d);
bool default_is_run(const struct defaults *d);
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
bool env_published(void);

/* image.c: may this program be executed under a default? */
int image_check(int dirfd, const char *path, int flags);

/* shim.c */
int shim_local_socket(const struct ask *ask);

#endif /* _SHIM_H */
