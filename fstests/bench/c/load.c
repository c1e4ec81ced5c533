// SPDX-License-Identifier: MIT
/*
 * load.c: short connections, as many as a server takes.
 *
 *	load CPUS CONNECTIONS MILLISECONDS PORT
 *
 * A thread on each CPU of the list ("0,1"; "-": one that runs anywhere) keeps
 * its share of CONNECTIONS going to 127.0.0.1:PORT: connect, send a request,
 * read to the end, close. After a fifth of the time it begins to count. It
 * prints connections per second, the median and the 99th percentile of the
 * time that one takes in microseconds, and how many failed.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "bench.h"

#define THREADS		16
#define SAMPLES		(1 << 20)	/* of a thread; later ones are not looked at */

static const char request[] = "GET / HTTP/1.0\r\nHost: x\r\n\r\n";
static struct sockaddr_in server;
static double count_from, count_to;	/* CLOCK_MONOTONIC, nanoseconds */

struct conn {
	double began;
	int fd;
	bool asked;
};

struct thread {
	pthread_t id;
	char cpu[8];
	int share;
	unsigned long done, failed;
	double *took;			/* microseconds */
};

static struct thread threads[THREADS];

static void begin(struct conn *c, int epfd)
{
	/* Once for all: each call less leaves more of the CPU to the server. */
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c };

	c->asked = false;
	c->began = now_ns();
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		err(1, "socket");
	if (connect(c->fd, (struct sockaddr *)&server, sizeof(server)) && errno != EINPROGRESS)
		err(1, "connect");
	if (epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &ev))
		err(1, "epoll_ctl");
}

static void finish(struct thread *t, struct conn *c, int epfd, bool ok)
{
	double now = now_ns();

	close(c->fd);
	if (now >= count_from && now < count_to) {
		if (ok && t->done < SAMPLES)
			t->took[t->done] = (now - c->began) / 1000;
		t->done += ok;
		t->failed += !ok;
	}
	begin(c, epfd);
}

static void step(struct thread *t, struct conn *c, int epfd, uint32_t events)
{
	char answer[4096];
	ssize_t n;

	if (!c->asked && events & EPOLLOUT) {
		c->asked = true;
		if (send(c->fd, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0) {
			finish(t, c, epfd, false);
			return;
		}
	}
	if (!(events & EPOLLIN))
		return;
	do {
		n = recv(c->fd, answer, sizeof(answer), 0);
	} while (n == sizeof(answer) || (n > 0 && events & EPOLLRDHUP));
	if (n == 0)
		finish(t, c, epfd, true);
	else if (n < 0 && errno != EAGAIN)
		finish(t, c, epfd, false);
}

static void *work(void *arg)
{
	struct thread *t = arg;
	struct conn *conns = calloc(t->share, sizeof(*conns));
	struct epoll_event events[64];
	int epfd = epoll_create1(EPOLL_CLOEXEC);

	pin(t->cpu);
	if (!conns || epfd < 0)
		err(1, "thread");
	for (int i = 0; i < t->share; i++)
		begin(&conns[i], epfd);
	while (now_ns() < count_to) {
		int n = epoll_wait(epfd, events, 64, 100);

		for (int i = 0; i < n; i++)
			step(t, events[i].data.ptr, epfd, events[i].events);
	}
	return NULL;
}

static int start(const char *cpus, int share_of)
{
	char list[64];
	int n = 0;

	snprintf(list, sizeof(list), "%s", cpus);
	for (char *cpu = strtok(list, ","); cpu && n < THREADS; cpu = strtok(NULL, ","))
		snprintf(threads[n++].cpu, sizeof(threads[0].cpu), "%s", cpu);
	for (int i = 0; i < n; i++) {
		threads[i].share = share_of / n;
		threads[i].took = malloc(SAMPLES * sizeof(double));
		if (!threads[i].took)
			err(1, "malloc");
		if (pthread_create(&threads[i].id, NULL, work, &threads[i]))
			errx(1, "pthread_create");
	}
	return n;
}

static double *all_samples(int n, unsigned long *count)
{
	double *all;

	*count = 0;
	for (int i = 0; i < n; i++)
		*count += threads[i].done < SAMPLES ? threads[i].done : SAMPLES;
	all = malloc((*count + 1) * sizeof(double));
	if (!all)
		err(1, "malloc");
	*count = 0;
	for (int i = 0; i < n; i++) {
		unsigned long k = threads[i].done < SAMPLES ? threads[i].done : SAMPLES;

		memcpy(all + *count, threads[i].took, k * sizeof(double));
		*count += k;
	}
	qsort(all, *count, sizeof(double), compare_doubles);
	return all;
}

int main(int argc, char **argv)
{
	unsigned long done = 0, failed = 0, count;
	double now = now_ns(), ms, *all;
	int n;

	want_args(argc, 5, "load CPUS CONNECTIONS MILLISECONDS PORT");
	ms = atof(argv[3]);
	count_from = now + ms * 0.2e6;
	count_to = now + ms * 1e6;
	server = (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(atoi(argv[4])),
		.sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	n = start(argv[1], atoi(argv[2]));
	for (int i = 0; i < n; i++) {
		pthread_join(threads[i].id, NULL);
		done += threads[i].done;
		failed += threads[i].failed;
	}
	all = all_samples(n, &count);
	if (!count)
		errx(1, "no connection came to its end, %lu failed", failed);
	printf("%.0f %.1f %.1f %lu\n", done / (ms * 0.8e-3), all[count / 2], all[count * 99 / 100], failed);
	return 0;
}
