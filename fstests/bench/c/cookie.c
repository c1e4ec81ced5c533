// SPDX-License-Identifier: MIT
/* cookie.c: prints the network namespace that a new socket is in. */
#include <stdint.h>
#include <sys/socket.h>

#include "bench.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE	71	/* since 5.14 */
#endif

int main(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	if (fd < 0)
		err(1, "socket");
	if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len))
		err(1, "SO_NETNS_COOKIE");
	printf("%llu\n", (unsigned long long)cookie);
	return 0;
}
