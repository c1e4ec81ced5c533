// SPDX-License-Identifier: MIT
/* syscall.c: system calls that nobody traps: getppid, and 64 bytes to and fro. */
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "bench.h"

#define MESSAGE	64

static void op_getppid(void *arg)
{
	(void)arg;
	syscall(SYS_getppid);
}

static void op_sendrecv(void *arg)
{
	int *pair = arg;
	char buf[MESSAGE] = { 0 };

	if (send(pair[0], buf, sizeof(buf), 0) != sizeof(buf))
		err(1, "send");
	if (recv(pair[1], buf, sizeof(buf), MSG_WAITALL) != sizeof(buf))
		err(1, "recv");
}

static void unix_pair(int pair[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		err(1, "socketpair");
}

static void tcp_pair(int pair[2])
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (listener < 0 || pair[0] < 0)
		err(1, "socket");
	if (bind(listener, (struct sockaddr *)&addr, len) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&addr, &len))
		err(1, "listen");
	if (connect(pair[0], (struct sockaddr *)&addr, len))
		err(1, "connect");
	pair[1] = accept(listener, NULL, NULL);
	if (pair[1] < 0)
		err(1, "accept");
	close(listener);
}

int main(int argc, char **argv)
{
	int pair[2];

	want_args(argc, 4, "syscall CPU COUNT getppid|unix|tcp");
	pin(argv[1]);
	if (!strcmp(argv[3], "getppid")) {
		measure(op_getppid, NULL, argv[2]);
		return 0;
	}
	if (!strcmp(argv[3], "unix"))
		unix_pair(pair);
	else
		tcp_pair(pair);
	measure(op_sendrecv, pair, argv[2]);
	return 0;
}
