// SPDX-License-Identifier: MIT
/* rr.c: round trips of 64 bytes over one TCP connection. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "bench.h"

#define MESSAGE	64
#define PORT	5202

static int tcp(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(1, "socket");
	return fd;
}

static void no_delay(int fd)
{
	int one = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		err(1, "TCP_NODELAY");
}

static void serve(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	char buf[MESSAGE];
	int listener = tcp(), one = 1, fd;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 8))
		err(1, "listen");
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		no_delay(fd);
		while (recv(fd, buf, sizeof(buf), MSG_WAITALL) == sizeof(buf) &&
		       send(fd, buf, sizeof(buf), MSG_NOSIGNAL) == sizeof(buf))
			;
		close(fd);
	}
	err(1, "accept");
}

static void op(void *arg)
{
	int fd = *(int *)arg;
	char buf[MESSAGE] = { 0 };

	if (send(fd, buf, sizeof(buf), 0) != sizeof(buf))
		err(1, "send");
	if (recv(fd, buf, sizeof(buf), MSG_WAITALL) != sizeof(buf))
		err(1, "recv");
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int fd;

	if (argc == 3 && !strcmp(argv[2], "serve")) {
		pin(argv[1]);
		serve();
	}
	want_args(argc, 4, "rr CPU serve | rr CPU COUNT ADDRESS");
	pin(argv[1]);
	if (inet_pton(AF_INET, argv[3], &addr.sin_addr) != 1)
		errx(2, "%s: no IPv4 address", argv[3]);
	fd = tcp();
	no_delay(fd);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		err(1, "connect %s", argv[3]);
	measure(op, &fd, argv[2]);
	return 0;
}
