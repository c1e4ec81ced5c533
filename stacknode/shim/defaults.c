// SPDX-License-Identifier: MIT
/*
 * defaults.c: the default stack of each family, and what the environment
 * says of it.
 *
 * An entry starts unset and is filled from the environment at the first
 * use, which copies all it needs: programs overwrite their environment to
 * change their title. It never goes back, so threads and signal handlers
 * can fill it at the same time without a lock.
 */
#include <stdlib.h>
#include <string.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "../uapi/stackfs.h"
#include "shim.h"
#include "sys.h"

#define RUN_VALUE_MAX	PATH_MAX

static struct stack none;	/* no default: the kernel's own */
static struct stack gone = { .path = "" };	/* a default that we could not read */
static _Atomic(struct stack *) defaults[FAMILIES];

static atomic_bool env_read;
static atomic_bool off;
static char run_value[RUN_VALUE_MAX];
static atomic_bool run_set;

static int default_from_env(void *arg, int family, const char *text, size_t len)
{
	struct stack **tab = arg;
	char path[PATH_MAX];
	struct stack *st;

	if (env_unescape(text, len, path, sizeof(path)) < 0 || path[0] != '/')
		return -EINVAL;
	st = stack_find(path, true);
	if (!st)
		return -ENOMEM;
	atomic_store(&st->seen, true);
	tab[family] = st;
	return 0;
}

static void env_read_once(void)
{
	struct stack *tab[FAMILIES] = { NULL };
	const char *value;
	int err = errno;

	/* secure_getenv: a set-user-ID program does not let its caller choose. */
	value = secure_getenv("STACKFS_SHIM");
	if (value && !strcmp(value, "off"))
		atomic_store(&off, true);
	value = secure_getenv("STACKFS_RUN");
	if (value && !atomic_load(&run_set)) {
		strncpy(run_value, value, sizeof(run_value) - 1);
		atomic_store(&run_set, true);
	}
	value = atomic_load(&off) ? NULL : secure_getenv("STACKFS_DEFAULT");
	if (value && env_parse(value, default_from_env, tab) < 0) {
		/* Some stack was meant; rather none than the wrong one. */
		for (int i = 0; i < FAMILIES; i++)
			tab[i] = &gone;
	}
	tab[AF_UNSPEC] = NULL;
	tab[AF_UNIX] = NULL;
	for (int i = 0; i < FAMILIES; i++) {
		struct stack *unset = NULL;

		atomic_compare_exchange_strong(&defaults[i], &unset,
					       tab[i] ? tab[i] : &none);
	}
	atomic_store(&env_read, true);
	errno = err;
}

bool shim_off(void)
{
	if (!atomic_load_explicit(&env_read, memory_order_acquire))
		env_read_once();
	return atomic_load_explicit(&off, memory_order_relaxed);
}

/* The value of STACKFS_RUN, or NULL. */
const char *shim_run_value(void)
{
	shim_off();
	return atomic_load(&run_set) ? run_value : NULL;
}

/* The default stack of a family, NULL if none is set. */
struct stack *default_get(int domain)
{
	struct stack *st;

	if (domain < 0 || domain >= FAMILIES)
		return NULL;
	st = atomic_load_explicit(&defaults[domain], memory_order_acquire);
	if (!st) {
		env_read_once();
		st = atomic_load_explicit(&defaults[domain], memory_order_acquire);
	}
	return st == &none ? NULL : st;
}

/* Returns whether any default is set. */
bool default_snapshot(struct defaults *d)
{
	d->any = false;
	for (int i = 0; i < FAMILIES; i++) {
		d->of[i] = default_get(i);
		if (d->of[i])
			d->any = true;
	}
	return d->any;
}

/*
 * Is there the filter of "stackfs run" below us, for the stack that is the
 * default? Then no program can miss it. The variable alone may have been
 * handed on by a daemon outside of the filter.
 */
bool default_is_run(const struct defaults *d)
{
	const char *run = shim_run_value();

	if (!run || SYS(prctl, PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER)
		return false;
	for (int i = 0; i < FAMILIES; i++) {
		if (d->of[i] && strcmp(d->of[i]->path, run))
			return false;
	}
	return true;
}

/* Sets st, or none for NULL, for each family in the set. */
static int default_store(uint64_t families, struct stack *st)
{
	struct defaults d;
	int ret;

	families &= ~(1ULL << AF_UNSPEC | 1ULL << AF_UNIX);
	default_snapshot(&d);
	d.any = false;
	for (int i = 0; i < FAMILIES; i++) {
		if (families >> i & 1)
			d.of[i] = st;
		if (d.of[i])
			d.any = true;
	}
	ret = env_publish(&d);
	if (ret < 0)
		return ret;
	for (int i = 0; i < FAMILIES; i++) {
		if (families >> i & 1)
			atomic_store(&defaults[i], st ? st : &none);
	}
	return 0;
}

/* The stack at path as an absolute one, for use after chdir(2). */
static struct stack *stack_absolute(const char *path)
{
	char buf[2 * PATH_MAX];
	size_t len = 0;

	if (path[0] != '/') {
		if (!getcwd(buf, PATH_MAX))
			return NULL;
		len = strlen(buf);
		buf[len++] = '/';
	}
	if (strlen(path) >= PATH_MAX)
		return NULL;
	strcpy(buf + len, path);
	return stack_find(buf, true);
}

int default_set(const char *path, int domain)
{
	struct stackfs_info info;
	struct stack *st;
	uint64_t families;
	int ret;

	if (shim_off())
		return -ENOTSUP;
	ret = node_info(path, &info);
	if (ret < 0) {
		st = path[0] == '/' ? stack_find(path, false) : NULL;
		return st ? stack_error(st, ret) : ret;
	}
	families = info.families & ~(1ULL << AF_UNIX);
	/* The null stack has no families; as a default it denies them all. */
	if (info.kind == STACKFS_KIND_NULL)
		families = ~0ULL;
	if (domain) {
		if (domain < 0 || domain >= FAMILIES || domain == AF_UNIX ||
		    !(families >> domain & 1))
			return -EAFNOSUPPORT;
		families = 1ULL << domain;
	}
	st = stack_absolute(path);
	if (!st)
		return -ENOMEM;
	atomic_store(&st->seen, true);
	return default_store(families, st);
}

int default_clear(int domain)
{
	if (shim_off())
		return -ENOTSUP;
	if (domain < 0 || domain >= FAMILIES)
		return -EAFNOSUPPORT;
	return default_store(domain ? 1ULL << domain : ~0ULL, NULL);
}
