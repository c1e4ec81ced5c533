// SPDX-License-Identifier: MIT
/* do_fds.c: what programs do to descriptors, ours among them. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "probe.h"

#pragma weak msocket

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = -1;	/* the directory itself */

	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

static int do_fds(int argc, char **argv)
{
	(void)argc, (void)argv;
	printf("fds: %d\n", count_fds());
	return 0;
}

static int do_closefrom(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	closefrom(atoi(argv[1]));
	return 0;
}

/* Close everything, one by one, and put a file of our own on each number. */
static int do_reuse(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	for (int fd = 3; fd < 1000; fd++) {
		if (open("/dev/null", O_RDONLY) != fd)
			return 1;
	}
	return 0;
}

/* Are the files of do_reuse still there? */
static int do_reused(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (int fd = 3; fd < 1000; fd++) {
		if (fcntl(fd, F_GETFD) < 0) {
			printf("reused: %d is gone\n", fd);
			return 0;
		}
	}
	printf("reused: ok\n");
	return 0;
}

static bool has_domain(int fd, int domain)
{
	socklen_t len = sizeof(int);
	int got = -1;

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &got, &len);
	return got == domain;
}

/*
 * loop N PATH DOMAIN TYPE PROTO: counts failures and shows the last errno.
 * Domain 0 is AF_INET6 in a child and AF_INET elsewhere.
 */
static int do_loop(int argc, char **argv)
{
	int n, bad = 0, err = 0, before, fd, domain;

	if (argc != 6 || !msocket)
		return 2;
	domain = atoi(argv[3]);
	if (!domain)
		domain = probe_is_child ? AF_INET6 : AF_INET;
	/* The first call may open a channel that stays. */
	close(msocket(argv[2], domain, atoi(argv[4]), atoi(argv[5])));
	before = count_fds();
	for (n = atoi(argv[1]); n > 0; n--) {
		fd = msocket(argv[2], domain, atoi(argv[4]), atoi(argv[5]));
		if (fd < 0)
			err = errno;
		if (!has_domain(fd, domain))
			bad++;
		if (fd >= 0)
			close(fd);
	}
	printf("loop: failed=%d leaked=%d%s%s\n", bad, count_fds() - before,
	       bad ? " " : "", bad ? strerrorname_np(err) : "");
	return 0;
}

/* The lowest descriptor above standard error. */
static int do_lowest(int argc, char **argv)
{
	int fd = 3;

	(void)argc, (void)argv;
	while (fd < 4096 && fcntl(fd, F_GETFD) < 0)
		fd++;
	printf("lowest: %d\n", fd);
	return 0;
}

static int do_nofile(int argc, char **argv)
{
	struct rlimit lim;

	if (argc != 2)
		return 2;
	lim.rlim_cur = lim.rlim_max = atoi(argv[1]);
	return setrlimit(RLIMIT_NOFILE, &lim) ? 1 : 0;
}

const struct verb fd_verbs[] = {
	{ "fds", do_fds, NULL },
	{ "closefrom", do_closefrom, NULL },
	{ "reuse", do_reuse, NULL },
	{ "reused", do_reused, NULL },
	{ "loop", do_loop, NULL },
	{ "lowest", do_lowest, NULL },
	{ "nofile", do_nofile, NULL },
	{ NULL, NULL, NULL },
};
