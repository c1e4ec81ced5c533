// SPDX-License-Identifier: MIT
/*
 * connect.c: receive flow deliver. The local port of a connection tells the
 * CPU that opened it, port & (CPUs rounded up to a power of two, less one), so
 * that a card or XDP program can steer what comes back there without a table.
 *
 * The port is not bound: the kernel chooses from a range of one port at
 * connect(2) (IP_LOCAL_PORT_RANGE, since 6.3), as it does from the whole
 * range, so that connections to different peers share ports as ever.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../shim/sys.h"
#include "fsocket.h"

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE	51
#endif

/* Ports that are tried before the kernel may take any. */
#define TRIES	8

static bool deliver;
static uint32_t first_port = 32768, last_port = 60999;
static uint32_t class_mask;

static void read_range(void)
{
	char text[32] = "";
	int fd = SYS(openat, AT_FDCWD, "/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY | O_CLOEXEC, 0);
	uint32_t first, last;

	if (fd < 0)
		return;
	if (SYS(read, fd, text, sizeof(text) - 1) > 0 && sscanf(text, "%u %u", &first, &last) == 2 &&
	    first <= last && last < 65536) {
		first_port = first;
		last_port = last;
	}
	fd_close(fd);
}

static __attribute__((constructor)) void start_deliver(void)
{
	const char *on = getenv("FSOCKET_RFD");
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	if (!on || strcmp(on, "1"))
		return;
	for (class_mask = 1; class_mask < (uint32_t)cpus; class_mask *= 2)
		;
	class_mask--;
	read_range();
	/* Some ports of each class, or it is of no use. */
	deliver = last_port - first_port > 4 * class_mask;
}

static uint32_t random_number(void)
{
	static __thread uint64_t state __attribute__((tls_model("initial-exec")));

	if (!state)
		state = (uint64_t)syscall(SYS_gettid) * 0x9e3779b97f4a7c15ull ^ coarse_ns();
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return state >> 33;
}

/* A random port of the class of this CPU. */
static uint32_t class_port(void)
{
	uint32_t cpu = sched_getcpu() & class_mask;
	uint32_t from = (first_port + class_mask) & ~class_mask;
	uint32_t groups = (last_port + 1 - from) / (class_mask + 1);

	return from + random_number() % groups * (class_mask + 1) + cpu;
}

static int set_range(int fd, uint32_t port)
{
	uint32_t range = port | port << 16;

	return SYS(setsockopt, fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range));
}

/* A TCP socket without a local port whose range of ports is nobody's wish. */
static bool chooses(int fd, const struct sockaddr *addr)
{
	struct sockaddr_storage own = {};
	socklen_t len = sizeof(own);
	uint32_t range = 0;
	int protocol = 0;

	if (addr->sa_family != AF_INET && addr->sa_family != AF_INET6)
		return false;
	if (SYS(getsockname, fd, &own, &len) < 0 || ((struct sockaddr_in *)&own)->sin_port)
		return false;	/* the port is at the same place in sockaddr_in6 */
	len = sizeof(protocol);
	if (SYS(getsockopt, fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) < 0 || protocol != IPPROTO_TCP)
		return false;
	len = sizeof(range);
	return SYS(getsockopt, fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, &len) == 0 && range == 0;
}

hook int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	if (!deliver || !addr || len < sizeof(addr->sa_family) || !chooses(fd, addr))
		return REAL(connect)(fd, addr, len);
	for (int i = 0; i < TRIES; i++) {
		int ret, err;

		if (set_range(fd, class_port()))
			break;
		ret = REAL(connect)(fd, addr, len);
		err = errno;
		if (ret == 0 || err != EADDRNOTAVAIL) {
			set_range(fd, 0);
			errno = err;
			return ret;
		}
	}
	set_range(fd, 0);
	return REAL(connect)(fd, addr, len);
}
