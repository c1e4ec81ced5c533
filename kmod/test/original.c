// SPDX-License-Identifier: GPL-2.0
/*
 * original.c: a library to preload that speaks with /dev/fastsocket as the two
 * libraries of Fastsocket do, for the tests. Every socket, of whatever family,
 * is made, accepted and closed by requests, with arguments that are not cleared.
 *
 * As the newer one: listen() asks for a clone at once, and a child of fork() for
 * clones of all listeners. As the older one, with -DAT_EPOLL: a worker asks for
 * a clone when it adds a listener to an epoll.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "../fastsocket.h"

#define MOST_FDS 65536

static int dev = -1;
static char listens[MOST_FDS];

__attribute__((constructor))
static void begin(void)
{
	cpu_set_t all;

	dev = open("/dev/fastsocket", O_RDONLY);
	if (dev < 0)
		exit(255);
	CPU_ZERO(&all);
	for (int i = 0; i < sysconf(_SC_NPROCESSORS_ONLN); i++)
		CPU_SET(i, &all);
	if (sched_setaffinity(0, sysconf(_SC_NPROCESSORS_ONLN), &all))
		exit(254);
}

int socket(int family, int type, int protocol)
{
	struct fsocket_arg arg;

	arg.op.socket.family = family;
	arg.op.socket.type = type;
	arg.op.socket.protocol = protocol;
	return ioctl(dev, FSOCKET_IOC_SOCKET, &arg);
}

int listen(int fd, int backlog)
{
	struct fsocket_arg arg;
	int ret;

	arg.fd = fd;
	arg.backlog = backlog;
	ret = ioctl(dev, FSOCKET_IOC_LISTEN, &arg);
	listens[fd] = ret >= 0;
#ifndef AT_EPOLL
	arg.op.spawn.cpu = -1;
	if (ret >= 0)
		ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg);
#endif
	return ret;
}

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	struct fsocket_arg arg;

	arg.fd = fd;
	arg.op.accept.sockaddr = addr;
	arg.op.accept.len = (int *)len;
	arg.op.accept.flags = flags;
	return ioctl(dev, FSOCKET_IOC_ACCEPT, &arg);
}

int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	return accept4(fd, addr, len, 0);
}

int close(int fd)
{
	struct fsocket_arg arg;

	arg.fd = fd;
	if (fd >= 0 && fd < MOST_FDS)
		listens[fd] = 0;
	return ioctl(dev, FSOCKET_IOC_CLOSE, &arg);
}

int shutdown(int fd, int how)
{
	struct fsocket_arg arg;
	int (*real)(int, int) = dlsym(RTLD_NEXT, "shutdown");

	if (!listens[fd])
		return real(fd, how);
	arg.fd = fd;
	arg.op.shutdown.how = how;
	return ioctl(dev, FSOCKET_IOC_SHUTDOWN_LISTEN, &arg);
}

#ifdef AT_EPOLL
int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct fsocket_arg arg;
	int (*real)(int, int, int, struct epoll_event *) = dlsym(RTLD_NEXT, "epoll_ctl");

	arg.fd = fd;
	arg.op.spawn.cpu = -1;
	if (listens[fd] && op == EPOLL_CTL_ADD)
		ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg);
	return real(epfd, op, fd, event);
}
#else
pid_t fork(void)
{
	struct fsocket_arg arg;
	pid_t (*real)(void) = dlsym(RTLD_NEXT, "fork");
	pid_t pid = real();

	if (!pid)
		ioctl(dev, FSOCKET_IOC_SPAWN_ALL_LISTEN, &arg);
	return pid;
}
#endif
