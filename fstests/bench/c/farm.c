// SPDX-License-Identifier: MIT
/*
 * farm.c: many idle connections, of which it holds both ends.
 *
 *	farm COUNT PORT [BYTES]
 *
 * COUNT is of sockets, two for each connection; all are of 127.0.0.1, the
 * listener of PORT is closed in the end. Each has sent BYTES. It says
 * "ready" and waits until its standard input ends.
 */
#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "bench.h"

static char data[65536];

/* Makes room for so many descriptors. */
static void raise_limit(rlim_t want)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim))
		err(1, "getrlimit");
	lim.rlim_cur = want;
	if (lim.rlim_max < want)
		lim.rlim_max = want; /* root may, up to fs.nr_open */
	if (setrlimit(RLIMIT_NOFILE, &lim))
		err(1, "RLIMIT_NOFILE %lu", want);
}

static int tcp(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(1, "socket");
	return fd;
}

static void send_all(int fd, int bytes)
{
	if (bytes && send(fd, data, bytes, MSG_NOSIGNAL) != bytes)
		err(1, "send");
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	int listener, one = 1, bytes = 0;
	char c;

	if (argc != 3 && argc != 4)
		errx(2, "usage: farm COUNT PORT [BYTES]");
	if (argc == 4)
		bytes = atoi(argv[3]);
	if (bytes > (int)sizeof(data))
		errx(2, "BYTES: %zu at most", sizeof(data));
	raise_limit(atoi(argv[1]) + 16);
	addr.sin_port = htons(atoi(argv[2]));
	listener = tcp();
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 16))
		err(1, "listen");
	for (int i = atoi(argv[1]) / 2; i > 0; i--) {
		int client = tcp(), server;

		if (connect(client, (struct sockaddr *)&addr, sizeof(addr)))
			err(1, "connect");
		server = accept(listener, NULL, NULL);
		if (server < 0)
			err(1, "accept");
		send_all(client, bytes);
		send_all(server, bytes);
	}
	close(listener);
	puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
