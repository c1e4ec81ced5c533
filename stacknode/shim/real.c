// SPDX-License-Identifier: MIT
/*
 * real.c: the functions behind our hooks. Each is looked up at its first
 * use, since another library's constructor may run before ours, and without
 * a once-lock, since looking up twice does no harm.
 */
#include <dlfcn.h>

#include "shim.h"

static long real_missing(void)
{
	errno = ENOSYS;
	return -1;
}

void *real_try(_Atomic(void *) *cache, const char *name)
{
	void *fn = atomic_load_explicit(cache, memory_order_acquire);

	if (fn)
		return fn;
	fn = dlsym(RTLD_NEXT, name);
	atomic_store_explicit(cache, fn, memory_order_release);
	return fn;
}

void *real_find(_Atomic(void *) *cache, const char *name)
{
	void *fn = real_try(cache, name);

	return fn ? fn : (void *)real_missing;
}
