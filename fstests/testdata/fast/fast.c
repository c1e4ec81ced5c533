// SPDX-License-Identifier: MIT
/*
 * fast.c: a server that waits in every way in which servers do.
 *
 *	fast WAY WORKERS THREADS ADDRESS PORT [OPTION...]
 *
 * WAY is epoll, epollet, exclusive, poll, select, accept (blocking) or
 * multi (accepts until EAGAIN). WORKERS processes with THREADS threads each
 * accept on ADDRESS:PORT and answer each connection with "PID TID CPU
 * ARRIVED\n": where the thread runs and SO_INCOMING_CPU of the connection.
 * With 0 workers the first process serves. Options: "v6only", "user=UID" (the
 * workers drop to it), "lazy=N" (worker N accepts nothing), "reuseport" (each
 * worker has a listener of its own), "backlog=N", "again" (listens twice).
 * "ready" when the workers have been made; it ends with its standard input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *way, *address;
static int port, workers, nthreads, backlog = 1024, lazy = -1, user = -1;
static bool v6only, reuseport, again;
static int worker = -1;		/* which one we are */

static bool blocking(void)
{
	return !strcmp(way, "accept");
}

static int make_listener(void)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
	bool six = inet_pton(AF_INET6, address, &in6.sin6_addr) == 1;
	int one = 1, fd;

	if (!six && inet_pton(AF_INET, address, &in.sin_addr) != 1)
		errx(2, "address %s", address);
	fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | (blocking() ? 0 : SOCK_NONBLOCK), 0);
	if (fd < 0)
		err(1, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (v6only)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (reuseport)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	if (bind(fd, six ? (void *)&in6 : (void *)&in, six ? sizeof(in6) : sizeof(in)))
		err(1, "bind");
	if (listen(fd, again ? 1 : backlog))
		err(1, "listen");
	if (again && listen(fd, backlog))
		err(1, "listen again");
	return fd;
}

static void answer(int fd)
{
	char request[512];
	int arrived = -1, flags = fcntl(fd, F_GETFL);
	socklen_t len = sizeof(arrived);

	if (flags & O_NONBLOCK)
		errx(1, "the accepted socket is O_NONBLOCK");
	getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &arrived, &len);
	/* What came unread would reset the connection. */
	if (recv(fd, request, sizeof(request), 0) < 0) {
		close(fd);
		return;
	}
	dprintf(fd, "%d %ld %d %d\n", getpid(), syscall(SYS_gettid), sched_getcpu(), arrived);
	close(fd);
}

/* Accepts one connection; false: there is none. */
static bool accept_one(int lfd)
{
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	int fd = accept4(lfd, (void *)&from, &len, SOCK_CLOEXEC);

	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			err(1, "accept");
		return false;
	}
	if (!(fcntl(fd, F_GETFD) & FD_CLOEXEC))
		errx(1, "the accepted socket is not FD_CLOEXEC");
	if (from.ss_family != AF_INET && from.ss_family != AF_INET6)
		errx(1, "the peer's family is %d", from.ss_family);
	answer(fd);
	return true;
}

static void by_epoll(int lfd, uint32_t flags)
{
	struct epoll_event ev = { .events = EPOLLIN | flags, .data.u64 = 0x1122334455667788 };
	int epfd = epoll_create1(EPOLL_CLOEXEC);
	bool until_empty = flags & EPOLLET || !strcmp(way, "multi");

	if (epoll_ctl(epfd, EPOLL_CTL_ADD, lfd, &ev))
		err(1, "epoll_ctl");
	for (;;) {
		struct epoll_event got[8];
		int n = epoll_wait(epfd, got, 8, -1);

		for (int i = 0; i < n; i++) {
			if (got[i].data.u64 != 0x1122334455667788)
				errx(1, "epoll gives data %llx", (unsigned long long)got[i].data.u64);
			while (accept_one(lfd) && until_empty)
				;
		}
	}
}

static void by_poll(int lfd)
{
	for (;;) {
		struct pollfd p[2] = { { .fd = -1 }, { .fd = lfd, .events = POLLIN } };
		int n = poll(p, 2, -1);

		if (n == 1 && p[1].revents & POLLIN)
			accept_one(lfd);
		else if (n != 1 || p[0].revents)
			errx(1, "poll returns %d with %x, %x", n, p[0].revents, p[1].revents);
	}
}

static void by_select(int lfd)
{
	for (;;) {
		fd_set in;
		int n;

		FD_ZERO(&in);
		FD_SET(lfd, &in);
		n = select(lfd + 1, &in, NULL, NULL, NULL);
		if (n != 1 || !FD_ISSET(lfd, &in))
			errx(1, "select returns %d", n);
		for (int fd = 0; fd < FD_SETSIZE; fd++) {
			if (fd != lfd && FD_ISSET(fd, &in))
				errx(1, "select shows descriptor %d", fd);
		}
		accept_one(lfd);
	}
}

static void serve(int lfd)
{
	if (worker == lazy)
		for (;;)
			pause();
	if (!strcmp(way, "epoll") || !strcmp(way, "multi"))
		by_epoll(lfd, 0);
	else if (!strcmp(way, "epollet"))
		by_epoll(lfd, EPOLLET);
	else if (!strcmp(way, "exclusive"))
		by_epoll(lfd, EPOLLEXCLUSIVE);
	else if (!strcmp(way, "poll"))
		by_poll(lfd);
	else if (!strcmp(way, "select"))
		by_select(lfd);
	else if (!blocking())
		errx(2, "way %s", way);
	for (;;)
		if (!accept_one(lfd))
			errx(1, "accept did not block");
}

static void *thread(void *lfd)
{
	serve((int)(long)lfd);
	return NULL;
}

static void work(int lfd)
{
	pthread_t id;

	for (int i = 1; i < nthreads; i++)
		if (pthread_create(&id, NULL, thread, (void *)(long)lfd))
			errx(1, "pthread_create");
	serve(lfd);
}

static void option(const char *o)
{
	if (!strcmp(o, "v6only"))
		v6only = true;
	else if (!strcmp(o, "reuseport"))
		reuseport = true;
	else if (!strcmp(o, "again"))
		again = true;
	else if (sscanf(o, "user=%d", &user) != 1 && sscanf(o, "lazy=%d", &lazy) != 1 && sscanf(o, "backlog=%d", &backlog) != 1)
		errx(2, "option %s", o);
}

static void start_worker(int lfd)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (user >= 0 && (setresgid(user, user, user) || setresuid(user, user, user)))
		err(1, "setresuid");
	if (reuseport)
		lfd = make_listener();
	work(lfd);
}

int main(int argc, char **argv)
{
	int lfd = -1;
	char c;

	if (argc < 6)
		errx(2, "usage: fast WAY WORKERS THREADS ADDRESS PORT [OPTION...]");
	way = argv[1];
	workers = atoi(argv[2]);
	nthreads = atoi(argv[3]);
	address = argv[4];
	port = atoi(argv[5]);
	for (int i = 6; i < argc; i++)
		option(argv[i]);
	signal(SIGPIPE, SIG_IGN);
	if (!reuseport)
		lfd = make_listener();
	for (worker = 0; worker < workers; worker++)
		start_worker(lfd);
	puts("ready");
	fflush(stdout);
	if (!workers) {
		worker = 0;
		work(reuseport ? make_listener() : lfd);
	}
	while (read(0, &c, 1) > 0)
		if (c == 'w') /* another worker */
			start_worker(lfd);
	return 0;
}
