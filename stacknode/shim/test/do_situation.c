// SPDX-License-Identifier: MIT
/* do_situation.c: where the rest of the line runs. */
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "probe.h"

static int rest(int argc, char **argv, int words)
{
	if (words < argc && !strcmp(argv[words], ","))
		words++;
	return words <= argc ? probe_run(argc - words, argv + words) : 2;
}

static int child(pid_t pid, int argc, char **argv)
{
	int status;

	if (pid < 0)
		return 1;
	if (pid == 0) {
		int ret = rest(argc, argv, 1);

		fflush(stdout);
		_exit(ret);
	}
	if (waitpid(pid, &status, 0) < 0)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int in_fork(int argc, char **argv)
{
	return child(fork(), argc, argv);
}

/* No fork handlers run. */
static int in_raw_fork(int argc, char **argv)
{
	return child(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), argc, argv);
}

bool probe_is_child;

/* parent-and-child: both at once, on what was one channel. */
static int in_both(int argc, char **argv)
{
	pid_t pid = fork();
	int status, ret;

	probe_is_child = pid == 0;
	ret = rest(argc, argv, 1);
	fflush(stdout);
	if (pid == 0)
		_exit(ret);
	if (waitpid(pid, &status, 0) < 0)
		return 1;
	return ret ? ret : WEXITSTATUS(status);
}

struct thread_args {
	int argc;
	char **argv;
	pthread_barrier_t *start;
};

static void *thread_main(void *arg)
{
	struct thread_args *t = arg;

	pthread_barrier_wait(t->start);
	return (void *)(long)probe_run(t->argc, t->argv);
}

/* threads N COMMAND: that one in N threads at once; the rest follows. */
static int in_threads(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;
	struct thread_args t = { .argv = argv + 2 };
	pthread_barrier_t start;
	pthread_t *ids;
	void *status;
	int ret = 0;

	if (n < 1)
		return 2;
	while (t.argc + 2 < argc && strcmp(t.argv[t.argc], ","))
		t.argc++;
	ids = calloc(n, sizeof(*ids));
	pthread_barrier_init(&start, NULL, n);
	t.start = &start;
	for (int i = 0; i < n; i++)
		pthread_create(&ids[i], NULL, thread_main, &t);
	for (int i = 0; i < n; i++) {
		pthread_join(ids[i], &status);
		if (status)
			ret = (long)status;
	}
	free(ids);
	return ret ? ret : rest(argc, argv, t.argc + 2);
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* alarms: a signal without SA_RESTART every 200 microseconds. */
static int in_alarms(int argc, char **argv)
{
	struct itimerval every = { { 0, 200 }, { 0, 200 } }, none = { 0 };
	struct sigaction sa = { .sa_handler = on_alarm };
	int ret;

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	ret = rest(argc, argv, 1);
	setitimer(ITIMER_REAL, &none, NULL);
	return ret;
}

/* user UID: all ids of that number. */
static int do_user(int argc, char **argv)
{
	int id = argc > 1 ? atoi(argv[1]) : 0;

	return setgroups(0, NULL) || setresgid(id, id, id) || setresuid(id, id, id);
}

static int do_unshare(int argc, char **argv)
{
	(void)argc, (void)argv;
	return unshare(CLONE_NEWNET) ? 1 : 0;
}

/* pause: until there is a line on standard input. */
static int do_pause(int argc, char **argv)
{
	char c;

	(void)argc, (void)argv;
	printf("pause\n");
	fflush(stdout);
	return read(0, &c, 1) == 1 ? 0 : 1;
}

const struct verb situation_verbs[] = {
	{ "fork", NULL, in_fork },
	{ "raw-fork", NULL, in_raw_fork },
	{ "parent-and-child", NULL, in_both },
	{ "threads", NULL, in_threads },
	{ "alarms", NULL, in_alarms },
	{ "user", do_user, NULL },
	{ "unshare", do_unshare, NULL },
	{ "pause", do_pause, NULL },
	{ NULL, NULL, NULL },
};
