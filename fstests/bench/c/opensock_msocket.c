// SPDX-License-Identifier: MIT
/* opensock_msocket.c: msocket(3) and close(2); the channel opens in the warm-up. */
#include "bench.h"
#include "msocket.h"

static void op(void *arg)
{
	int fd = msocket(arg, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(1, "msocket %s", (char *)arg);
	close(fd);
}

int main(int argc, char **argv)
{
	want_args(argc, 4, "opensock_msocket CPU COUNT NODE");
	pin(argv[1]);
	measure(op, argv[3], argv[2]);
	return 0;
}
