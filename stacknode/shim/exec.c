// SPDX-License-Identifier: MIT
/*
 * exec.c: the hooks of the exec family. With no default set they are libc's
 * own functions; with one, all of them end in exec_run, since libc's call
 * each other out of our sight.
 */
#include <alloca.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "exec.h"
#include "shim.h"
#include "sys.h"

static bool inert(void)
{
	struct defaults d;

	return !default_snapshot(&d);
}

static int exec_return(int ret)
{
	if (ret >= 0)
		return ret;
	errno = -ret;
	return -1;
}

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	struct exec e = { .call = EXEC_VE, .path = path, .argv = argv };

	return exec_return(exec_run(&e, envp));
}

EXPORT int execv(const char *path, char *const argv[])
{
	struct exec e = { .call = EXEC_VE, .path = path, .argv = argv };

	return exec_return(exec_run(&e, environ));
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	struct exec e = { .call = EXEC_VE, .argv = argv };

	if (inert())
		return REAL(execvpe)(file, argv, envp);
	return exec_return(exec_search(&e, file, envp));
}

EXPORT int execvp(const char *file, char *const argv[])
{
	struct exec e = { .call = EXEC_VE, .argv = argv };

	if (inert())
		return REAL(execvp)(file, argv);
	return exec_return(exec_search(&e, file, environ));
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	struct exec e = { .call = EXEC_FVE, .fd = fd, .argv = argv };

	return exec_return(exec_run(&e, envp));
}

EXPORT int execveat(int dirfd, const char *path, char *const argv[],
		    char *const envp[], int flags)
{
	struct exec e = {
		.call = EXEC_VEAT,
		.fd = dirfd,
		.path = path,
		.argv = argv,
		.flags = flags,
	};

	return exec_return(exec_run(&e, envp));
}

/*
 * The arguments of a call with a list, as a vector on this frame; ap is left
 * behind the terminating null pointer.
 */
#define LIST_TO_VECTOR(argv, first, ap) do {				\
	size_t n_ = 1;							\
									\
	va_start(ap, first);						\
	while (va_arg(ap, char *))					\
		n_++;							\
	va_end(ap);							\
	argv = alloca((n_ + 1) * sizeof(*argv));			\
	argv[0] = (char *)first;					\
	va_start(ap, first);						\
	for (size_t i_ = 1; i_ <= n_; i_++)				\
		argv[i_] = va_arg(ap, char *);				\
} while (0)

EXPORT int execl(const char *path, const char *arg, ...)
{
	char **argv;
	va_list ap;

	LIST_TO_VECTOR(argv, arg, ap);
	va_end(ap);
	return execv(path, argv);
}

EXPORT int execlp(const char *file, const char *arg, ...)
{
	char **argv;
	va_list ap;

	LIST_TO_VECTOR(argv, arg, ap);
	va_end(ap);
	return execvp(file, argv);
}

EXPORT int execle(const char *path, const char *arg, ...)
{
	char *const *envp;
	char **argv;
	va_list ap;

	LIST_TO_VECTOR(argv, arg, ap);
	envp = va_arg(ap, char *const *);
	va_end(ap);
	return execve(path, argv, envp);
}

/* These two return the errno and leave the variable alone. */
EXPORT int posix_spawn(pid_t *restrict pid, const char *restrict path,
		       const posix_spawn_file_actions_t *restrict actions,
		       const posix_spawnattr_t *restrict attr,
		       char *const argv[restrict], char *const envp[restrict])
{
	struct exec e = {
		.call = EXEC_SPAWN,
		.path = path,
		.argv = argv,
		.pid = pid,
		.actions = actions,
		.attr = attr,
	};

	return -exec_run(&e, envp);
}

EXPORT int posix_spawnp(pid_t *restrict pid, const char *restrict file,
			const posix_spawn_file_actions_t *restrict actions,
			const posix_spawnattr_t *restrict attr,
			char *const argv[restrict], char *const envp[restrict])
{
	struct exec e = {
		.call = EXEC_SPAWN,
		.argv = argv,
		.pid = pid,
		.actions = actions,
		.attr = attr,
	};

	if (inert())
		return REAL(posix_spawnp)(pid, file, actions, attr, argv, envp);
	return -exec_search(&e, file, envp);
}

EXPORT int system(const char *command)
{
	int ret = command ? exec_shell_check() : 0;

	return ret < 0 ? exec_return(ret) : REAL(system)(command);
}

EXPORT FILE *popen(const char *command, const char *mode)
{
	int ret = exec_shell_check();

	if (ret < 0) {
		errno = -ret;
		return NULL;
	}
	return REAL(popen)(command, mode);
}
