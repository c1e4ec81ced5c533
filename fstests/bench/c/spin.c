// SPDX-License-Identifier: MIT
/*
 * spin.c: how long a socket is not to be used.
 *
 *	spin CPU BYTES WRITE
 *
 * It makes a connection, fills the receive and the send queue of one end
 * with BYTES each, by writes of WRITE bytes that the kernel does not join, and
 * prints "ready FD COOKIE" of that end. Then a thread on
 * the CPU receives no byte from it, again and again: the call takes the lock
 * of the socket and fails in repair mode (EPERM), and changes nothing. "b" on
 * standard input begins to measure; "e" prints the longest time between two
 * calls that worked, in nanoseconds.
 */
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "bench.h"

static int fd;
static long longest; /* nanoseconds; -1: begin anew */
static unsigned long worked; /* calls */
static const char *cpu;

static void *spin(void *arg)
{
	double last;
	char c;

	(void)arg;
	pin(cpu);
	last = now_ns();
	for (;;) {
		ssize_t n = recv(fd, &c, 0, MSG_DONTWAIT);
		double now = now_ns();
		long seen = __atomic_load_n(&longest, __ATOMIC_ACQUIRE);

		if (n < 0 && errno != EAGAIN)
			continue;
		if (seen < 0 || now - last > seen)
			__atomic_compare_exchange_n(&longest, &seen, seen < 0 ? 0 : (long)(now - last), false,
						    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
		last = now;
		__atomic_fetch_add(&worked, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static int set(int sock, int option, int value)
{
	return setsockopt(sock, SOL_SOCKET, option, &value, sizeof(value));
}

/* Waits until a call has worked that began after now. */
static void await_call(void)
{
	unsigned long before = __atomic_load_n(&worked, __ATOMIC_ACQUIRE);

	while (__atomic_load_n(&worked, __ATOMIC_ACQUIRE) < before + 2)
		;
}

/* A connection: fd, whose buffers hold what they must, and its peer. */
static int connect_pair(int bytes)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0), peer;

	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (listener < 0 || fd < 0)
		err(1, "socket");
	/* Skbs count for more than their bytes. */
	if (set(fd, SO_SNDBUFFORCE, 2 * bytes + 65536) || set(fd, SO_RCVBUFFORCE, 4 * bytes + 65536) ||
	    set(listener, SO_SNDBUFFORCE, 2 * bytes + 65536))
		err(1, "buffers");
	if (bind(listener, (struct sockaddr *)&addr, len) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&addr, &len))
		err(1, "listen");
	if (connect(fd, (struct sockaddr *)&addr, len))
		err(1, "connect");
	peer = accept(listener, NULL, NULL);
	if (peer < 0)
		err(1, "accept");
	close(listener);
	return peer;
}

/* Lets no packet in: what is sent to the socket is never acknowledged. */
static void deafen(int sock)
{
	struct sock_filter drop = { .code = BPF_RET | BPF_K };
	struct sock_fprog all = { .len = 1, .filter = &drop };

	if (setsockopt(sock, SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof(all)))
		err(1, "SO_ATTACH_FILTER");
}

/* Sends until the queue of fd has so many bytes. */
static void fill(int from, unsigned long queue, int bytes, int write)
{
	static char data[65536];
	double limit = now_ns() + 10e9;
	int n;

	for (int i = 0; i < (int)sizeof(data); i++)
		data[i] = i * 131 >> 3;
	for (;;) {
		int missing;

		if (ioctl(fd, queue, &n))
			err(1, "ioctl");
		missing = bytes - n;
		if (missing <= 0)
			return;
		if (now_ns() > limit)
			errx(1, "%d of %d bytes get into the queue", n, bytes);
		if (missing > (int)sizeof(data))
			missing = sizeof(data);
		for (int len; missing > 0; missing -= len) {
			len = missing < write ? missing : write;
			if (send(from, data, len, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_EOR) < 0 && errno != EAGAIN)
				err(1, "send");
		}
		usleep(1000); /* it arrives */
	}
}

int main(int argc, char **argv)
{
	unsigned long long cookie;
	socklen_t len = sizeof(cookie);
	pthread_t thread;
	int peer, bytes, write, c;

	want_args(argc, 4, "spin CPU BYTES WRITE");
	cpu = argv[1];
	bytes = atoi(argv[2]);
	write = atoi(argv[3]);
	peer = connect_pair(bytes);
	fill(peer, SIOCINQ, bytes, write);
	deafen(peer);
	fill(fd, SIOCOUTQ, bytes, write);
	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len))
		err(1, "SO_COOKIE");
	if (pthread_create(&thread, NULL, spin, NULL))
		errx(1, "pthread_create");
	printf("ready %d %llu\n", fd, cookie);
	fflush(stdout);
	while ((c = getchar()) != EOF) {
		if (c == 'b') {
			__atomic_store_n(&longest, -1, __ATOMIC_RELEASE);
			await_call();
			puts("ok");
		} else if (c == 'e') {
			await_call();
			printf("%ld\n", __atomic_load_n(&longest, __ATOMIC_ACQUIRE));
		}
		fflush(stdout);
	}
	return 0;
}
