// SPDX-License-Identifier: MIT
/* shim.c: msocket(3), the socket hook and the start of the library. */
#include <pthread.h>
#include <string.h>

#include "msocket.h"
#include "shim.h"

/* socket(2) as if we were not here. */
int shim_local_socket(const struct ask *ask)
{
	int err = errno;
	int fd = REAL(socket)(ask->domain, ask->type, ask->protocol);

	if (fd < 0)
		fd = -errno;
	errno = err;
	return fd;
}

/* A socket of the family's default stack, and of no other. */
static int shim_socket(const struct ask *ask)
{
	struct stack *st = default_get(ask->domain);
	int ret;

	if (!st)
		return shim_local_socket(ask);
	ret = stack_socket(st, ask);
	/* It was there when it became the default. */
	if (ret == -ENOENT || ret == -ENOTSUP)
		ret = -ENODEV;
	return ret;
}

static int shim_return(int ret)
{
	if (ret >= 0)
		return ret;
	errno = -ret;
	return -1;
}

EXPORT int socket(int domain, int type, int protocol)
{
	struct ask ask = { domain, type, protocol };

	return shim_return(shim_socket(&ask));
}

EXPORT int msocket(const char *path, int domain, int type, int protocol)
{
	struct ask ask = { domain, type, protocol };

	if (type == SOCK_DEFAULT)
		return shim_return(path ? default_set(path, domain) :
					  default_clear(domain));
	if (!path)
		return shim_return(shim_socket(&ask));
	return shim_return(stack_path_socket(path, &ask));
}

/* Hooks do not rely on this: they may run before it. */
__attribute__((constructor)) static void shim_start(void)
{
	real_find_all();
	shim_off();
	env_self();
	chan_start();
	pthread_atfork(NULL, NULL, chan_forked);
}
