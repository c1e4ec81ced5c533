#include "probe.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
}

/* alarms N [noretry]: N sockets, all kept open, under a storm of signals, of
 * the kind that restarts calls or the one that does not.
 * "calls N sockets S alarms yes eintr E bad B", or what went wrong. */
int do_alarms(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = argc > 2 ? 0 : SA_RESTART};
	struct itimerval every = {{0, 1000}, {0, 1000}};
	int n = argc > 1 ? atoi(argv[1]) : 1000, bad = 0, eintr = 0, before;
	struct rlimit lim = {n + 64, n + 64};
	unsigned long long want = 0;

	if (setrlimit(RLIMIT_NOFILE, &lim) < 0 && getrlimit(RLIMIT_NOFILE, &lim) == 0)
		n = lim.rlim_cur - 64;
	sigaction(SIGALRM, &sa, NULL);
	before = count_fds(lim.rlim_cur);
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < n; i++) {
		int fd = socket(i % 8 ? AF_INET : AF_INET6, i % 2 ? SOCK_STREAM : SOCK_DGRAM, 0);

		if (fd < 0 && errno == EINTR) {
			eintr++;
		} else if (fd <= 2 || (want && cookie_of(fd) != want)) {
			printf("call %d: %d %s\n", i, fd, fd < 0 ? strerrorname_np(errno) : "");
			bad++;
		} else if (!want) {
			want = cookie_of(fd);
		}
	}
	memset(&every, 0, sizeof(every));
	setitimer(ITIMER_REAL, &every, NULL);
	printf("calls %d sockets %d alarms %s eintr %d bad %d\n", n, count_fds(lim.rlim_cur) - before,
	       alarms > 0 ? "yes" : "no", eintr, bad);
	return bad > 0;
}

static unsigned long long host_cookie;
static volatile int stop;

struct tally {
	pthread_t thread;
	long ok, nodev, other, host, bogus;
	double slowest; /* seconds */
	int other_errno;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void *load_thread(void *arg)
{
	struct tally *t = arg;

	for (long i = 0; !stop; i++) {
		double start = now(), took;
		int family = i % 5 == 4 ? AF_NETLINK : i % 2 ? AF_INET : AF_INET6;
		int fd = socket(family, family == AF_NETLINK ? SOCK_RAW : SOCK_STREAM, 0);
		unsigned long long c;

		took = now() - start;
		if (took > t->slowest)
			t->slowest = took;
		if (fd < 0) {
			if (errno == ENODEV) {
				t->nodev++;
			} else {
				t->other++;
				t->other_errno = errno;
			}
			usleep(500);
			continue;
		}
		c = cookie_of(fd);
		if (fd <= 2 || c == 0)
			t->bogus++;
		else if (c == host_cookie)
			t->host++;
		else
			t->ok++;
		if (fd > 2)
			close(fd);
		if (i % 64 == 0)
			usleep(100);
	}
	return NULL;
}

static int load_process(int threads, int number, int out)
{
	struct tally t[16] = {0}, sum = {0};
	struct pollfd in = {.fd = 0, .events = POLLIN};

	for (int i = 0; i < threads; i++)
		pthread_create(&t[i].thread, NULL, load_thread, &t[i]);
	/* Standard input ends when the test does. */
	while (poll(&in, 1, -1) < 0 && errno == EINTR)
		;
	stop = 1;
	for (int i = 0; i < threads; i++) {
		pthread_join(t[i].thread, NULL);
		sum.ok += t[i].ok, sum.nodev += t[i].nodev, sum.other += t[i].other;
		sum.host += t[i].host, sum.bogus += t[i].bogus;
		if (t[i].slowest > sum.slowest)
			sum.slowest = t[i].slowest;
		if (t[i].other_errno)
			sum.other_errno = t[i].other_errno;
	}
	dprintf(out, "%d: ok %ld nodev %ld other %ld (%s) host %ld bogus %ld slowest %.3f\n", number, sum.ok,
		sum.nodev, sum.other, sum.other_errno ? strerrorname_np(sum.other_errno) : "none", sum.host, sum.bogus,
		sum.slowest);
	return 0;
}

/* load PROCESSES THREADS HOST: sockets in all of them until standard input
 * ends; none may be of the namespace HOST. A line for each process. Descriptor 3,
 * if it is open, is told when they have started. */
int do_load(int argc, char **argv)
{
	int processes, threads;

	if (argc < 4)
		return 2;
	processes = atoi(argv[1]), threads = atoi(argv[2]);
	host_cookie = strtoull(argv[3], NULL, 10);
	for (int i = 0; i < processes; i++)
		if (fork() == 0)
			_exit(load_process(threads, i, 1));
	dprintf(3, "started\n");
	while (wait(NULL) > 0 || errno == EINTR)
		;
	return 0;
}
