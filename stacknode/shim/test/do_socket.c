// SPDX-License-Identifier: MIT
/* do_socket.c: socket, msocket and the defaults. */
#include <fcntl.h>
#include <stdint.h>

#include "probe.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE	71
#endif

/* Only there when libmsocket is linked or preloaded. */
#pragma weak msocket

static void words(char *buf, size_t size, int argc, char **argv)
{
	size_t n = 0;

	buf[0] = '\0';
	for (int i = 0; i < argc && n < size; i++)
		n += snprintf(buf + n, size - n, "%s%s", i ? " " : "", argv[i]);
}

/* One write per line: threads report at the same time. */
void report(int argc, char **argv, int ret)
{
	int err = errno;
	char buf[512];

	words(buf, sizeof(buf), argc, argv);
	if (ret < 0)
		printf("%s: %s\n", buf, strerrorname_np(err));
	else
		printf("%s: ok\n", buf);
	fflush(stdout);
}

void report_socket(int argc, char **argv, int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);
	int domain = -1, type = -1;
	char buf[512];

	if (fd < 0) {
		report(argc, argv, fd);
		return;
	}
	words(buf, sizeof(buf), argc, argv);
	getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len);
	len = sizeof(domain);
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	len = sizeof(type);
	getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
	printf("%s: ok netns=%llu domain=%d type=%d cloexec=%d nonblock=%d fd=%d errno=%d\n",
	       buf, (unsigned long long)cookie, domain, type,
	       !!(fcntl(fd, F_GETFD) & FD_CLOEXEC),
	       !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fd, errno);
	fflush(stdout);
	close(fd);
}

static int number(const char *word)
{
	return strtol(word, NULL, 0);
}

static const char *path_of(const char *word)
{
	return strcmp(word, "NULL") ? word : NULL;
}

static int do_socket(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	errno = 0;
	report_socket(argc, argv,
		      socket(number(argv[1]), number(argv[2]), number(argv[3])));
	return 0;
}

static int do_msocket(int argc, char **argv)
{
	if (argc != 5 || !msocket)
		return 2;
	errno = 0;
	report_socket(argc, argv,
		      msocket(path_of(argv[1]), number(argv[2]),
			      number(argv[3]), number(argv[4])));
	return 0;
}

static int do_default(int argc, char **argv)
{
	if (argc != 3 || !msocket)
		return 2;
	report(argc, argv,
	       msocket(path_of(argv[1]), number(argv[2]), SOCK_DEFAULT, 0));
	return 0;
}

const struct verb socket_verbs[] = {
	{ "socket", do_socket, NULL },
	{ "msocket", do_msocket, NULL },
	{ "default", do_default, NULL },
	{ NULL, NULL, NULL },
};
