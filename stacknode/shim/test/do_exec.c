// SPDX-License-Identifier: MIT
/*
 * do_exec.c: every way to start a program. All words after the call's are
 * its arguments, commas included.
 */
#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "probe.h"

/* What a program may pass instead of its environment. */
static char *own_env[] = {
	(char *)"LD_PRELOAD=",
	(char *)"STACKFS_DEFAULT=2=/nonexistent",
	NULL,
};
static char *off_env[] = { (char *)"STACKFS_SHIM=off", NULL };
static char *no_env[] = { NULL };

static int wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) < 0)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int failed(char **argv)
{
	report(2, argv, -1);
	return 0;
}

/* exec CALL PROGRAM ARGS...: replaces this process. */
static int do_exec(int argc, char **argv)
{
	char **args = argv + 2;
	const char *call = argv[1];

	if (argc < 3)
		return 2;
	if (!strcmp(call, "execve"))
		execve(args[0], args, environ);
	else if (!strcmp(call, "execve-empty"))
		execve(args[0], args, no_env);
	else if (!strcmp(call, "execve-null"))
		execve(args[0], args, NULL);
	else if (!strcmp(call, "execve-own"))
		execve(args[0], args, own_env);
	else if (!strcmp(call, "execve-off"))
		execve(args[0], args, off_env);
	else if (!strcmp(call, "execv"))
		execv(args[0], args);
	else if (!strcmp(call, "execvp"))
		execvp(args[0], args);
	else if (!strcmp(call, "execvpe"))
		execvpe(args[0], args, no_env);
	else if (!strcmp(call, "execl"))
		execl(args[0], args[0], args[1], args[2], args[3], args[4], NULL);
	else if (!strcmp(call, "execlp"))
		execlp(args[0], args[0], args[1], args[2], args[3], args[4], NULL);
	else if (!strcmp(call, "execle"))
		execle(args[0], args[0], args[1], args[2], args[3], args[4], NULL, no_env);
	else if (!strcmp(call, "fexecve"))
		fexecve(open(args[0], O_RDONLY | O_CLOEXEC), args, no_env);
	else if (!strcmp(call, "fexecve-path"))
		fexecve(open(args[0], O_PATH | O_CLOEXEC), args, no_env);
	else if (!strcmp(call, "execveat"))
		execveat(AT_FDCWD, args[0], args, no_env, 0);
	else if (!strcmp(call, "execveat-fd"))
		execveat(open(args[0], O_PATH | O_CLOEXEC), "", args, no_env,
			 AT_EMPTY_PATH);
	else
		return 2;
	return failed(argv);
}

static int do_spawn(int argc, char **argv)
{
	char **args = argv + 2;
	char **env = no_env;
	pid_t pid;
	int err;

	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "posix_spawn"))
		err = posix_spawn(&pid, args[0], NULL, NULL, args, env);
	else if (!strcmp(argv[1], "posix_spawnp"))
		err = posix_spawnp(&pid, args[0], NULL, NULL, args, env);
	else
		return 2;
	if (err) {
		errno = err;
		return failed(argv);
	}
	return wait_for(pid);
}

static int do_vfork(int argc, char **argv)
{
	pid_t pid;

	if (argc < 2)
		return 2;
	pid = vfork();
	if (pid == 0) {
		execve(argv[1], argv + 1, no_env);
		_exit(126);
	}
	return wait_for(pid);
}

static int do_system(int argc, char **argv)
{
	int ret;

	if (argc < 2)
		return 2;
	ret = system(argv[1]);
	if (ret < 0)
		return failed(argv);
	return WEXITSTATUS(ret);
}

static int do_popen(int argc, char **argv)
{
	char line[512];
	FILE *f;

	if (argc < 2)
		return 2;
	f = popen(argv[1], "r");
	if (!f)
		return failed(argv);
	while (fgets(line, sizeof(line), f))
		fputs(line, stdout);
	return pclose(f) ? 1 : 0;
}

static int do_clearenv(int argc, char **argv)
{
	(void)argc, (void)argv;
	clearenv();
	setenv("PATH", "/usr/bin:/bin", 1);
	return 0;
}

/* As setproctitle does: the strings that ld.so and we were given. */
static int do_scribble(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (char **e = environ; *e; e++)
		memset(*e, 'x', strlen(*e));
	return 0;
}

static int do_unsetenv(int argc, char **argv)
{
	return argc == 2 ? unsetenv(argv[1]) : 2;
}

static int do_chdir(int argc, char **argv)
{
	return argc == 2 ? chdir(argv[1]) : 2;
}

static int do_chroot(int argc, char **argv)
{
	return argc == 2 ? chroot(argv[1]) : 2;
}

static int do_env(int argc, char **argv)
{
	const char *value = argc == 2 ? getenv(argv[1]) : NULL;

	printf("env %s: %s\n", argv[1], value ? value : "(unset)");
	return 0;
}

const struct verb exec_verbs[] = {
	{ "exec", NULL, do_exec },
	{ "spawn", NULL, do_spawn },
	{ "vfork", NULL, do_vfork },
	{ "system", do_system, NULL },
	{ "popen", do_popen, NULL },
	{ "clearenv", do_clearenv, NULL },
	{ "scribble", do_scribble, NULL },
	{ "unsetenv", do_unsetenv, NULL },
	{ "chdir", do_chdir, NULL },
	{ "chroot", do_chroot, NULL },
	{ "env", do_env, NULL },
	{ NULL, NULL, NULL },
};
