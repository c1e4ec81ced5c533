// SPDX-License-Identifier: MIT
/* opensock.c: socket(2) and close(2), under whatever is around us. */
#include <sys/socket.h>

#include "bench.h"

static void op(void *arg)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)arg;
	if (fd < 0)
		err(1, "socket");
	close(fd);
}

int main(int argc, char **argv)
{
	want_args(argc, 3, "opensock CPU COUNT");
	pin(argv[1]);
	measure(op, NULL, argv[2]);
	return 0;
}
