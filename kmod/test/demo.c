// SPDX-License-Identifier: GPL-2.0
/*
 * demo.c: a web server, or a proxy before one, as the one that came with
 * Fastsocket works: one listener, a worker for each CPU that binds itself to
 * it, one accept for an event, one connection to the server behind for each of
 * a client, no keep-alive. It knows nothing of /dev/fastsocket.
 *
 *	demo PORT [PORT-BEHIND]		serves until it is killed
 *	demo get PORT N server|proxy	N requests from each CPU; are they answered,
 *					by a server: on the CPU that they came from?
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <signal.h>
#include <unistd.h>

#define MOST_CONNS 8192
#define ROOM 2048

enum state { ACCEPT, READ, WRITE_BEHIND, READ_BEHIND, WRITE };

/* A connection of a client, and the one to the server behind if there is. */
struct conn {
	enum state state;
	int fd, behind;
	int len;
	char buf[ROOM];
};

static int ep, behind_port;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void address(struct sockaddr_in *in, int port)
{
	memset(in, 0, sizeof(*in));
	in->sin_family = AF_INET;
	in->sin_port = htons(port);
	in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

static void set_nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK);
}

/* With a mask of as many bytes as there are CPUs, as the original does. */
static void bind_cpu(int cpu)
{
	cpu_set_t mask;

	CPU_ZERO(&mask);
	CPU_SET(cpu, &mask);
	if (sched_setaffinity(0, sysconf(_SC_NPROCESSORS_ONLN), &mask))
		die("sched_setaffinity");
}

static void end(struct conn *c)
{
	epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
	close(c->fd);
	if (c->behind)
		close(c->behind);
	free(c);
}

/* Waits for an event of fd next. */
static int next(struct conn *c, int op, int fd, enum state state, int events)
{
	struct epoll_event ev = { .events = events | EPOLLHUP | EPOLLERR, .data.ptr = c };

	c->state = state;
	return epoll_ctl(ep, op, fd, &ev);
}

static int connect_behind(struct conn *c)
{
	struct linger reset = { 1, 0 };
	struct epoll_event none = { .events = EPOLLHUP | EPOLLERR, .data.ptr = c };
	struct sockaddr_in in;

	epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &none);
	c->behind = socket(AF_INET, SOCK_STREAM, 0);
	if (c->behind < 0)
		return -1;
	set_nonblocking(c->behind);
	if (setsockopt(c->behind, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)))
		return -1;
	address(&in, behind_port);
	if (connect(c->behind, (void *)&in, sizeof(in)) && errno != EINPROGRESS)
		return -1;
	return next(c, EPOLL_CTL_ADD, c->behind, WRITE_BEHIND, EPOLLOUT);
}

static void answer(struct conn *c)
{
	c->len = snprintf(c->buf, sizeof(c->buf), "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nCPU %d\n", sched_getcpu());
}

static int take(int listener)
{
	int fd = accept(listener, NULL, NULL);
	struct conn *c;

	if (fd < 0)
		return 0; /* another worker was first */
	set_nonblocking(fd);
	c = calloc(1, sizeof(*c));
	c->fd = fd;
	return next(c, EPOLL_CTL_ADD, fd, READ, EPOLLIN);
}

/* What comes next of a connection; negative: it has ended. */
static int step(struct conn *c)
{
	switch (c->state) {
	case ACCEPT:
		return take(c->fd);
	case READ:
		c->len = read(c->fd, c->buf, ROOM);
		if (c->len <= 0)
			return -1;
		if (behind_port)
			return connect_behind(c);
		answer(c);
		return next(c, EPOLL_CTL_MOD, c->fd, WRITE, EPOLLOUT);
	case WRITE_BEHIND:
		if (write(c->behind, c->buf, c->len) != c->len)
			return -1;
		return next(c, EPOLL_CTL_MOD, c->behind, READ_BEHIND, EPOLLIN);
	case READ_BEHIND:
		c->len = read(c->behind, c->buf, ROOM);
		if (c->len <= 0 || next(c, EPOLL_CTL_MOD, c->behind, WRITE, 0))
			return -1;
		return next(c, EPOLL_CTL_MOD, c->fd, WRITE, EPOLLOUT);
	case WRITE:
		if (write(c->fd, c->buf, c->len) != c->len)
			return -1;
		return -1; /* answered */
	}
	return -1;
}

static void work(int listener, int cpu)
{
	struct conn *l = calloc(1, sizeof(*l));
	struct epoll_event evs[64];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	bind_cpu(cpu);
	ep = epoll_create(MOST_CONNS);
	l->fd = listener;
	if (next(l, EPOLL_CTL_ADD, listener, ACCEPT, EPOLLIN))
		die("epoll_ctl");
	for (;;) {
		/* One at a time: the end of a connection may have two events. */
		if (epoll_wait(ep, evs, 1, -1) == 1 && step(evs[0].data.ptr) < 0 && evs[0].data.ptr != l)
			end(evs[0].data.ptr);
	}
}

static int serve(int port)
{
	struct rlimit most = { MOST_CONNS, MOST_CONNS };
	struct sockaddr_in in;
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	signal(SIGPIPE, SIG_IGN);
	set_nonblocking(fd);
	address(&in, port);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) || bind(fd, (void *)&in, sizeof(in)) || listen(fd, 8192))
		die("listener");
	if (setrlimit(RLIMIT_NOFILE, &most))
		die("setrlimit");
	for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (!pid)
			work(fd, cpu);
	}
	pause();
	return 0;
}

/* The CPU that answers, -1 if none does. */
static int request(int port)
{
	static const char get[] = "GET / HTTP/1.0\r\n\r\n";
	struct timeval patience = { .tv_sec = 20 };
	int fd = socket(AF_INET, SOCK_STREAM, 0), n = 0, got = 0, cpu = -1;
	struct sockaddr_in in;
	char buf[ROOM];

	address(&in, port);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (!connect(fd, (void *)&in, sizeof(in)) && write(fd, get, sizeof(get) - 1) > 0) {
		while ((n = read(fd, buf + got, sizeof(buf) - 1 - got)) > 0)
			got += n;
		buf[got] = 0;
		if (strncmp(buf, "HTTP/1.0 200 OK\r\n", 17) || sscanf(strstr(buf, "CPU") ?: "", "CPU %d", &cpu) != 1)
			cpu = -1;
	}
	close(fd);
	return cpu;
}

static int get(int port, int n, int same)
{
	int lost = 0, elsewhere = 0, cpus = sysconf(_SC_NPROCESSORS_ONLN), i, cpu;

	for (i = -20; i < n; i++) { /* before, workers may have no clones yet */
		for (cpu = 0; cpu < cpus; cpu++) {
			int by;

			bind_cpu(cpu);
			by = request(port);
			lost += by < 0;
			elsewhere += i >= 0 && by >= 0 && by != cpu;
		}
	}
	printf("# %d requests: %d without an answer, %d answered on another CPU\n", (n + 20) * cpus, lost, elsewhere);
	return lost || (same && elsewhere > n * cpus / 20);
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "get"))
		return get(atoi(argv[2]), atoi(argv[3]), !strcmp(argv[4], "server"));
	if (argc < 2)
		return 2;
	behind_port = argc > 2 ? atoi(argv[2]) : 0;
	return serve(atoi(argv[1]));
}
