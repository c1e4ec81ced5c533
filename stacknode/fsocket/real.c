// SPDX-License-Identifier: MIT
/*
 * real.c: the functions behind our hooks. All are looked up at the start,
 * since dlsym takes a lock that a child of fork may find taken for ever. A
 * call before that, in another library's constructor, looks up its own.
 */
#include <dlfcn.h>
#include <errno.h>

#include "fsocket.h"

#define REAL_NAME(fn)	#fn,
static const char *const names[] = { REAL_CALLS(REAL_NAME) };
static _Atomic(void *) found[REAL_COUNT];

static long real_missing(void)
{
	errno = ENOSYS;
	return -1;
}

void *real_find(enum real_call call)
{
	void *fn = atomic_load_explicit(&found[call], memory_order_acquire);

	if (fn)
		return fn;
	fn = dlsym(RTLD_NEXT, names[call]);
	if (!fn)	/* this libc has no such function, so nobody calls it */
		fn = (void *)real_missing;
	atomic_store_explicit(&found[call], fn, memory_order_release);
	return fn;
}

void real_find_all(void)
{
	for (int i = 0; i < REAL_COUNT; i++)
		real_find(i);
}
