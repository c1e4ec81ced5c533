// SPDX-License-Identifier: MIT
/* search.c: the program search of execvp(3) and posix_spawnp(3). */
#include <alloca.h>
#include <stdlib.h>
#include <string.h>

#include "exec.h"
#include "shim.h"
#include "sys.h"

/* A file that is neither a program nor a script is one for the shell. */
static int exec_shell(struct exec *e, char *const *envp)
{
	char **argv;
	size_t n = 0;

	while (e->argv && e->argv[n])
		n++;
	argv = alloca((n + 3) * sizeof(*argv));
	argv[0] = (char *)"/bin/sh";
	argv[1] = (char *)e->path;
	for (size_t i = 1; i < n; i++)
		argv[i + 1] = e->argv[i];
	argv[n > 0 ? n + 1 : 2] = NULL;
	e->path = argv[0];
	e->argv = argv;
	return exec_run(e, envp);
}

static int exec_try(struct exec *e, char *const *envp)
{
	int ret = 0;

	/* A new process only for what is there. */
	if (e->call == EXEC_SPAWN)
		ret = SYS(faccessat, AT_FDCWD, e->path, F_OK);
	if (ret == 0)
		ret = exec_run(e, envp);
	/* posix_spawnp has not done this since glibc 2.15. */
	if (ret == -ENOEXEC && e->call == EXEC_VE)
		return exec_shell(e, envp);
	return ret;
}

/* Is the search over with this result? */
static bool search_ends(const struct exec *e, int ret)
{
	if (e->refused)
		return true;
	switch (-ret) {
	case EACCES:
	case ENOENT:
	case ESTALE:
	case ENOTDIR:
	case ENODEV:	/* some file systems' words for "not here" */
	case ETIMEDOUT:
		return false;
	}
	return true;
}

/* Returns as exec_run. */
int exec_search(struct exec *e, const char *file, char *const *envp)
{
	const char *dir = getenv("PATH");
	size_t file_len = strlen(file);
	bool denied = false;
	char buf[PATH_MAX];

	e->path = file;
	if (!*file)
		return -ENOENT;
	if (strchr(file, '/'))
		return exec_try(e, envp);
	if (file_len > NAME_MAX)
		return -ENAMETOOLONG;
	if (!dir)
		dir = "/bin:/usr/bin";	/* confstr(_CS_PATH) */
	for (;;) {
		size_t len = strcspn(dir, ":");
		int ret;

		if (len + file_len + 2 <= sizeof(buf)) {
			memcpy(buf, dir, len);
			buf[len] = '/';
			/* An empty entry is the working directory. */
			strcpy(buf + len + (len > 0), file);
			e->path = buf;
			ret = exec_try(e, envp);
			if (search_ends(e, ret))
				return ret;
			denied |= ret == -EACCES;
		}
		if (!dir[len])
			return denied ? -EACCES : -ENOENT;
		dir += len + 1;
	}
}
