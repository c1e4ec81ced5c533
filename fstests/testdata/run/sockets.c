#include "probe.h"
#include <sched.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>

/* families: what socket(2) says for each family of Linux and the first
 * numbers behind. "FAMILY ok COOKIE" or "FAMILY ERRNO". */
int do_families(int argc, char **argv)
{
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET};
	(void)argc, (void)argv;

	for (int family = 0; family <= 47; family++) {
		int fd = -1, e = 0;

		for (int i = 0; i < 4 && fd < 0; i++) {
			fd = socket(family, types[i], 0);
			if (fd < 0 && (!e || errno == EPERM || errno == EACCES))
				e = errno;
		}
		if (fd < 0) {
			printf("%d %s\n", family, strerrorname_np(e));
			continue;
		}
		printf("%d ok %llu\n", family, cookie_of(fd));
		close(fd);
	}
	return 0;
}

/* cookie [FAMILY [TYPE [PROTOCOL]]]: one socket. "ok COOKIE" or "ERRNO". */
int do_cookie(int argc, char **argv)
{
	int family = argc > 1 ? atoi(argv[1]) : AF_INET;
	int type = argc > 2 ? atoi(argv[2]) : SOCK_STREAM;
	int fd = socket(family, type, argc > 3 ? atoi(argv[3]) : 0);

	if (fd < 0) {
		printf("%s\n", strerrorname_np(errno));
		return 0;
	}
	printf("ok %llu\n", cookie_of(fd));
	return 0;
}

static int with_socketpair(void)
{
	int pair[2];
	char c = 'x';

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return -1;
	return write(pair[0], &c, 1) == 1 && read(pair[1], &c, 1) == 1 ? 0 : -1;
}

/* unix NAME: connects to the abstract address NAME and prints what comes,
 * and the cookie of the socket that it was on. */
int do_unix(int argc, char **argv)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char text[64] = "";

	if (argc < 2 || with_socketpair() < 0) {
		perror("socketpair");
		return 1;
	}
	strncpy(sa.sun_path + 1, argv[1], sizeof(sa.sun_path) - 2);
	if (connect(fd, (void *)&sa, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argv[1])) < 0) {
		perror("connect");
		return 1;
	}
	if (read(fd, text, sizeof(text) - 1) < 0) {
		perror("read");
		return 1;
	}
	printf("%s %llu\n", text, cookie_of(fd));
	return 0;
}

/* flags: the descriptor and status flags that SOCK_CLOEXEC and
 * SOCK_NONBLOCK give, for a plain socket and for one of another kind. */
int do_flags(int argc, char **argv)
{
	static const int domains[] = {AF_INET, AF_NETLINK};
	(void)argc, (void)argv;

	for (int d = 0; d < 2; d++)
		for (int i = 0; i < 4; i++) {
			int flags = (i & 1 ? SOCK_CLOEXEC : 0) | (i & 2 ? SOCK_NONBLOCK : 0);
			int fd = socket(domains[d], (domains[d] == AF_INET ? SOCK_STREAM : SOCK_RAW) | flags, 0);

			printf("%s%s%s\n", fd < 0 ? strerrorname_np(errno) : "ok",
			       fcntl(fd, F_GETFD) & FD_CLOEXEC ? " cloexec" : "",
			       fcntl(fd, F_GETFL) & O_NONBLOCK ? " nonblock" : "");
		}
	return 0;
}

/* emfile: sockets up to the limit of the process and one more, and again
 * after one was closed. "N ERRNO ok". */
int do_emfile(int argc, char **argv)
{
	struct rlimit lim = {32, 32};
	int fd, last = -1, n = 0;
	(void)argc, (void)argv;

	if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
		return 1;
	int before = count_fds(32);

	while ((fd = socket(AF_INET, SOCK_DGRAM, 0)) >= 0)
		last = fd, n++;
	printf("%d %s", n + before, strerrorname_np(errno));
	close(last);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	printf(" %s\n", fd == last ? "ok" : strerrorname_np(errno));
	return 0;
}

/* fds: the numbers of the open descriptors. */
int do_fds(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (int fd = 0; fd < 256; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("%d ", fd);
	printf("\n");
	return 0;
}

/* args ...: all arguments, one a line. */
int do_args(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		puts(argv[i]);
	return 0;
}

/* daemon FILE [mount]: becomes a daemon, with mount in a mount namespace of
 * its own, and makes a socket for each line that somebody writes into the
 * FIFO FILE; writes what it got to FILE.out. */
int do_daemon(int argc, char **argv)
{
	char out[4096], fresh[4096];
	FILE *in, *to;

	if (argc < 2 || daemon(1, 0) < 0 || (argc > 2 && unshare(CLONE_NEWNS) < 0))
		return 1;
	snprintf(out, sizeof(out), "%s.out", argv[1]);
	snprintf(fresh, sizeof(fresh), "%s.new", argv[1]);
	for (;;) {
		char line[64];
		int fd;

		in = fopen(argv[1], "r");
		if (!in || !fgets(line, sizeof(line), in) || !strcmp(line, "end\n"))
			return 0;
		fclose(in);
		fd = socket(AF_INET, SOCK_STREAM, 0);
		to = fopen(fresh, "w");
		if (fd < 0)
			fprintf(to, "%s\n", strerrorname_np(errno));
		else
			fprintf(to, "ok %llu\n", cookie_of(fd));
		fclose(to);
		rename(fresh, out);
		close(fd);
	}
}
