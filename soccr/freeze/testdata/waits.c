/*
 * Programs that wait in system calls, for the tests of package freeze:
 *
 *	waits FILE MODE [ARGUMENT]
 *
 * FILE is mapped and has the counters that the test looks at.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct counters {
	unsigned long turns;	/* calls that returned */
	unsigned long eintr;	/* with EINTR */
	unsigned long wrong;	/* with a result that is not as it should be */
	unsigned long handled;	/* handlers that ran */
	unsigned long disorder;	/* with a value that was not the next one */
	unsigned long threads;	/* that were started */
	unsigned long ready;
};

static volatile struct counters *count;

#define add(field) __atomic_fetch_add(&count->field, 1, __ATOMIC_SEQ_CST)

static int must(int r, const char *what)
{
	if (r < 0) {
		perror(what);
		exit(1);
	}
	return r;
}

static struct timespec ms(long n)
{
	return (struct timespec){ n / 1000, n % 1000 * 1000000 };
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* silent returns a connected socket that nobody writes to, full with fill. */
static int silent(int option, long timeout, int fill)
{
	struct timeval tv = { timeout / 1000, timeout % 1000 * 1000 };
	char block[4096] = { 0 };
	int fd[2];

	must(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), "socketpair");
	if (timeout)
		must(setsockopt(fd[0], SOL_SOCKET, option, &tv, sizeof tv), "setsockopt");
	while (fill && send(fd[0], block, sizeof block, MSG_DONTWAIT) > 0)
		;
	return fd[0];
}

/*
 * wait_ms makes one call of the kind with that timeout, 0: none, where
 * nothing will happen. Returns what the call returned; *want is what it
 * returns at the end of the timeout.
 */
static int wait_ms(const char *kind, long timeout, int *want_errno)
{
	struct timespec ts = ms(timeout), *tp = timeout ? &ts : NULL;
	struct epoll_event ev;
	sigset_t set;
	char c[16] = { 0 };
	int word = 0;

	*want_errno = 0;
	if (!strcmp(kind, "epoll_wait"))
		return syscall(SYS_epoll_wait, epoll_create1(0), &ev, 1, timeout ? timeout : -1);
	if (!strcmp(kind, "epoll_pwait"))
		return epoll_pwait(epoll_create1(0), &ev, 1, timeout ? timeout : -1, NULL);
	if (!strcmp(kind, "epoll_pwait2"))
		return syscall(SYS_epoll_pwait2, epoll_create1(0), &ev, 1, tp, NULL, 0);
	if (!strcmp(kind, "nanosleep"))
		return nanosleep(&ts, NULL);
	if (!strcmp(kind, "poll"))
		return poll(NULL, 0, timeout ? timeout : -1);
	if (!strcmp(kind, "ppoll"))
		return ppoll(NULL, 0, tp, NULL);
	if (!strcmp(kind, "select")) {
		struct timeval tv = { timeout / 1000, timeout % 1000 * 1000 };

		return select(0, NULL, NULL, NULL, timeout ? &tv : NULL);
	}
	if (!strcmp(kind, "io_getevents")) {
		static aio_context_t ctx;
		struct io_event event;

		if (!ctx)
			must(syscall(SYS_io_setup, 8, &ctx), "io_setup");
		return syscall(SYS_io_getevents, ctx, 1, 1, &event, tp);
	}
	*want_errno = EAGAIN;
	if (!strcmp(kind, "semtimedop")) {
		struct sembuf op = { 0, -1, 0 };
		int id = must(semget(IPC_PRIVATE, 1, 0600), "semget"), r, e;

		r = semtimedop(id, &op, 1, tp);
		e = errno;
		semctl(id, 0, IPC_RMID);
		errno = e;
		return r;
	}
	if (!strcmp(kind, "sigtimedwait")) {
		sigemptyset(&set);
		sigaddset(&set, SIGUSR2);
		return sigtimedwait(&set, NULL, tp);
	}
	if (!strcmp(kind, "recv"))
		return recv(silent(SO_RCVTIMEO, timeout, 0), c, sizeof c, 0);
	if (!strcmp(kind, "read"))
		return read(silent(SO_RCVTIMEO, timeout, 0), c, sizeof c);
	if (!strcmp(kind, "send"))
		return send(silent(SO_SNDTIMEO, timeout, 1), c, sizeof c, 0);
	if (!strcmp(kind, "accept")) {
		struct timeval tv = { timeout / 1000, timeout % 1000 * 1000 };
		int fd = must(socket(AF_INET, SOCK_STREAM, 0), "socket");

		must(listen(fd, 1), "listen");
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
		return accept(fd, NULL, NULL);
	}
	*want_errno = ETIMEDOUT;
	if (!strcmp(kind, "futex"))
		return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, tp, NULL, 0);
	fprintf(stderr, "no call %s\n", kind);
	exit(2);
}

/* once: one call with a timeout; prints its result, errno and milliseconds. */
static void once(const char *kind, long timeout)
{
	int want, r, e;
	double start = now();

	add(ready);
	r = wait_ms(kind, timeout, &want);
	e = errno;
	printf("%d %s %.1f %s\n", r, r < 0 ? strerrorname_np(e) : "-", now() - start,
	       (want ? r == -1 && e == want : r == 0) ? "as-usual" : "wrong");
}

static void *forever(void *kind)
{
	int want;

	for (;;) {
		add(ready);
		if (wait_ms(kind, 20, &want) < 0 && errno == EINTR)
			add(eintr);
		else
			add(turns);
	}
	return NULL;
}

/* all: a thread in each of the calls, over and over. */
static void all(void)
{
	static const char *kinds[] = { "epoll_wait", "epoll_pwait", "epoll_pwait2", "nanosleep", "poll", "ppoll",
		"select", "io_getevents", "semtimedop", "sigtimedwait", "futex" };
	pthread_t t;

	for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
		pthread_create(&t, NULL, forever, (void *)kinds[i]);
	pause();
}

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	if (info->si_code == SI_QUEUE && (unsigned long)info->si_value.sival_int != count->handled)
		add(disorder);
	add(handled);
}

static void catch(int sig, int flags)
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	sigaction(sig, &sa, NULL);
}

/* signals: waits in the call for ever and counts how it ends. */
static void signals(const char *kind)
{
	int want;

	catch(SIGRTMIN, 0);
	signal(SIGUSR1, SIG_IGN);
	for (;;) {
		add(ready);
		if (wait_ms(kind, 0, &want) == -1 && errno == EINTR)
			add(eintr);
		else
			add(wrong);
	}
}

/* queue: sends itself n signals, from a child, while it waits. */
static void queue(int n)
{
	struct epoll_event ev;
	int ep = epoll_create1(0);
	pid_t child;

	catch(SIGRTMIN, 0);
	child = must(fork(), "fork");
	if (child == 0) {
		for (int i = 0; i < n; i++) {
			union sigval v = { .sival_int = i };

			while (sigqueue(getppid(), SIGRTMIN, v) < 0)
				usleep(100);
			usleep(i % 7 * 100);
		}
		exit(0);
	}
	while (count->handled < (unsigned long)n) {
		add(turns);
		if (epoll_wait(ep, &ev, 1, 1000) < 0 && errno == EINTR)
			add(eintr);
		else
			add(wrong);
	}
	usleep(20000); /* one too many would come now */
	printf("%lu\n", count->handled);
}

/* alarms: an interval timer of 2 ms; prints handlers and what the kernel counted as expired. */
static void alarms(void)
{
	struct itimerspec every = { ms(2), ms(2) };
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	unsigned long expired = 0;
	double start = now();
	siginfo_t info;
	sigset_t set;
	timer_t timer;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	must(timer_create(CLOCK_MONOTONIC, &ev, &timer), "timer_create");
	must(timer_settime(timer, 0, &every, NULL), "timer_settime");
	while (now() - start < 1000) {
		int r = sigwaitinfo(&set, &info);

		if (r == -1 && errno == EINTR)
			add(eintr);
		else if (r == SIGRTMIN)
			expired += 1 + info.si_overrun;
	}
	printf("%.3f\n", expired / ((now() - start) / 2));
}

static void *nop(void *unused)
{
	(void)unused;
	add(turns);
	return NULL;
}

static void *spawner(void *unused)
{
	(void)unused;
	for (;;) {
		pthread_t t;

		if (pthread_create(&t, NULL, nop, NULL) == 0) {
			add(threads);
			pthread_join(t, NULL);
		}
	}
	return NULL;
}

static void *spin(void *unused)
{
	(void)unused;
	for (;;) {
		add(turns);
		usleep(200);
	}
	return NULL;
}

/* stuck: a parent in vfork, whose child waits for a file to go away. */
static void *stuck(void *path)
{
	static char *argv[] = { "true", NULL };
	static struct timespec nap = { 0, 5000000 };

	add(ready);
	if (vfork() == 0) {
		while (syscall(SYS_access, path, F_OK) == 0)
			syscall(SYS_nanosleep, &nap, NULL);
		execv("/bin/true", argv);
		_exit(1);
	}
	return NULL;
}

/* again: a thread that replaces the program. */
static void *again(void *argv)
{
	add(turns);
	execv("/proc/self/exe", argv);
	return NULL;
}

static void *leave(void *unused)
{
	(void)unused;
	add(ready);
	spin(NULL);
	return NULL;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[2] : "", *arg = argc > 3 ? argv[3] : "";
	pthread_t t;
	int fd;

	if (argc < 3)
		return 2;
	fd = must(open(argv[1], O_RDWR), argv[1]);
	count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (count == MAP_FAILED)
		return 1;
	close(fd);
	if (!strcmp(mode, "once")) {
		once(arg, argc > 4 ? atol(argv[4]) : 300);
	} else if (!strcmp(mode, "all")) {
		all();
	} else if (!strcmp(mode, "signals")) {
		signals(arg);
	} else if (!strcmp(mode, "queue")) {
		queue(atoi(arg));
	} else if (!strcmp(mode, "alarms")) {
		alarms();
	} else if (!strcmp(mode, "spawn")) {
		pthread_create(&t, NULL, spawner, NULL);
		pthread_create(&t, NULL, spawner, NULL);
		add(ready);
		spawner(NULL);
	} else if (!strcmp(mode, "spin")) {
		add(ready);
		spin(NULL);
	} else if (!strcmp(mode, "headless")) {	/* without its first thread */
		pthread_create(&t, NULL, leave, NULL);
		pthread_exit(NULL);
	} else if (!strcmp(mode, "stuck")) {
		pthread_create(&t, NULL, stuck, (void *)arg);
		spin(NULL);
	} else if (!strcmp(mode, "exec")) {
		add(ready);
		pthread_create(&t, NULL, spawner, NULL);
		pthread_create(&t, NULL, again, argv);
		pause();
	} else if (!strcmp(mode, "trace")) {
		must(ptrace(PTRACE_SEIZE, atoi(arg), NULL, NULL), "ptrace");
		add(ready);
		pause();
	} else {
		return 2;
	}
	return 0;
}
