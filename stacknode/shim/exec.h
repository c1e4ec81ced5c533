/* SPDX-License-Identifier: MIT */
/* exec.h: one program to execute, by any of the calls that can. */
#ifndef _EXEC_H
#define _EXEC_H

#include <spawn.h>
#include <stdbool.h>

enum exec_call { EXEC_VE, EXEC_FVE, EXEC_VEAT, EXEC_SPAWN };

struct exec {
	enum exec_call call;
	const char *path;
	char *const *argv;
	int fd;				/* EXEC_FVE, EXEC_VEAT */
	int flags;			/* EXEC_VEAT */
	pid_t *pid;			/* EXEC_SPAWN and below */
	const posix_spawn_file_actions_t *actions;
	const posix_spawnattr_t *attr;
	bool refused;			/* out: by us, not by the kernel */
};

/* carry.c */
int exec_run(struct exec *e, char *const *envp);
int exec_shell_check(void);

/* search.c */
int exec_search(struct exec *e, const char *file, char *const *envp);

#endif /* _EXEC_H */
