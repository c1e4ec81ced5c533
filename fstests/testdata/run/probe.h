/* Shared by the parts of the test program for "stackfs run". */
#ifndef PROBE_H
#define PROBE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

/* cookie_of returns the SO_NETNS_COOKIE of a socket, 0 if it has none. */
static inline unsigned long long cookie_of(int fd)
{
	unsigned long long c = 0;
	socklen_t n = sizeof(c);

	if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &c, &n) < 0)
		return 0;
	return c;
}

/* count_fds counts the open descriptors by asking for each. */
static inline int count_fds(int up_to)
{
	int n = 0;

	for (int fd = 0; fd < up_to; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Each command prints what it found and returns the exit code. */
int do_families(int argc, char **argv);
int do_cookie(int argc, char **argv);
int do_unix(int argc, char **argv);
int do_flags(int argc, char **argv);
int do_emfile(int argc, char **argv);
int do_alarms(int argc, char **argv);
int do_load(int argc, char **argv);
int do_fds(int argc, char **argv);
int do_args(int argc, char **argv);
int do_listener(int argc, char **argv);
int do_foreign(int argc, char **argv);
int do_x32(int argc, char **argv);
int do_uring(int argc, char **argv);
int do_socketcall(int argc, char **argv);
int do_daemon(int argc, char **argv);

#endif
