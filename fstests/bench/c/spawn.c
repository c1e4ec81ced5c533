// SPDX-License-Identifier: MIT
/* spawn.c: starts a program again and again and prints how long each takes. */
#include <spawn.h>
#include <sys/wait.h>

#include "bench.h"

extern char **environ;

static void op(void *arg)
{
	char **argv = arg;
	int status, e;
	pid_t pid;

	e = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	if (e)
		errx(1, "%s: %s", argv[0], strerror(e));
	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "%s: wait status %#x", argv[0], status);
}

int main(int argc, char **argv)
{
	int out;

	if (argc < 4)
		errx(2, "usage: spawn CPU COUNT PROGRAM ARGUMENT...");
	pin(argv[1]);
	/* What the programs print is not wanted; what is measured is. */
	out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
	if (out < 0 || !freopen("/dev/null", "w", stdout))
		err(1, "/dev/null");
	stdout = fdopen(out, "w");
	measure(op, argv + 3, argv[2]);
	return 0;
}
