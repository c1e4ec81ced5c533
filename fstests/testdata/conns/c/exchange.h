// SPDX-License-Identifier: MIT
/*
 * exchange.h: what the exchange programs in C share.
 *
 *	PROGRAM client|server ADDRESS PORT [KEY=VALUE]...
 *
 * Two of them have one connection. When both are told to go, each sends its
 * stream and checks that of the other byte by byte, until its standard input
 * ends; then it shuts down its side and waits for the end of the other's.
 * The last line of output is a report in JSON.
 *
 * Keys: size, the longest message in bytes; rate, bytes per second that each
 * sends (0: as fast as it goes); buf, SO_SNDBUF and SO_RCVBUF in bytes (0:
 * the kernel's choice).
 */
#ifndef EXCHANGE_H
#define EXCHANGE_H

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* A prime: no loss of less than that goes unnoticed. */
#define PERIOD		262139
#define MAX_ERRNO	200
#define MAX_ERRORS	1000	/* then a program gives up */

struct options {
	bool server;
	const char *address;
	int port;
	uint32_t size;
	uint64_t rate;
	int buf;
	int alarm;	/* microseconds, see storm.h */
};

struct report {
	uint64_t sent, received, corrupt;
	uint64_t reads;
	uint64_t eintr;
	uint64_t errors[MAX_ERRNO];
	uint64_t nerrors;
	uint64_t last, gap;	/* nanoseconds: of the last data; the longest time without */
	bool eof;
};

static unsigned char out_table[2 * PERIOD], in_table[2 * PERIOD];

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* The byte at offset o of a stream is table[o % PERIOD]; the table goes on. */
static inline void fill_table(unsigned char *table, uint32_t seed)
{
	uint32_t x = seed;

	for (int i = 0; i < PERIOD; i++) {
		if (i % 4 == 0) {
			x ^= x << 13;
			x ^= x >> 17;
			x ^= x << 5;
		}
		table[i] = x >> (8 * (i % 4));
	}
	memcpy(table + PERIOD, table, PERIOD);
}

static inline void fill_tables(const struct options *o)
{
	const uint32_t client = 0x9e3779b9, server = 0x7f4a7c15;

	fill_table(out_table, o->server ? server : client);
	fill_table(in_table, o->server ? client : server);
}

/* How long the message at an offset is. */
static inline uint32_t message(const struct options *o, uint64_t offset)
{
	return 1 + (uint32_t)(offset * 2654435761u >> 7) % o->size;
}

static inline void count_error(struct report *r, int error)
{
	if (error == EINTR) {
		r->eintr++;
		return;
	}
	r->errors[error < MAX_ERRNO ? error : 0]++;
	r->nerrors++;
}

/* Checks n bytes that have come. */
static inline void got(struct report *r, const unsigned char *b, size_t n)
{
	const unsigned char *want = in_table + r->received % PERIOD;
	uint64_t now = now_ns();

	if (memcmp(b, want, n))
		for (size_t i = 0; i < n; i++)
			r->corrupt += b[i] != want[i];
	if (r->last && now - r->last > r->gap)
		r->gap = now - r->last;
	r->last = now;
	r->received += n;
	r->reads++;
}

static inline void print_report(const struct report *r)
{
	const char *comma = "";

	printf("{\"sent\":%llu,\"received\":%llu,\"corrupt\":%llu,\"reads\":%llu,\"eintr\":%llu,\"max_gap_us\":%llu,\"eof\":%s,\"errors\":{",
	       (unsigned long long)r->sent, (unsigned long long)r->received, (unsigned long long)r->corrupt,
	       (unsigned long long)r->reads, (unsigned long long)r->eintr, (unsigned long long)r->gap / 1000,
	       r->eof ? "true" : "false");
	for (int i = 0; i < MAX_ERRNO; i++)
		if (r->errors[i]) {
			printf("%s\"%s\":%llu", comma, strerrorname_np(i), (unsigned long long)r->errors[i]);
			comma = ",";
		}
	printf("}");
}

static inline void parse_options(struct options *o, int argc, char **argv)
{
	if (argc < 4 || (strcmp(argv[1], "client") && strcmp(argv[1], "server")))
		errx(2, "usage: PROGRAM client|server ADDRESS PORT [KEY=VALUE]...");
	*o = (struct options){ .server = argv[1][0] == 's', .address = argv[2], .port = atoi(argv[3]), .size = 16384 };
	for (int i = 4; i < argc; i++) {
		if (sscanf(argv[i], "size=%u", &o->size) != 1 && sscanf(argv[i], "rate=%lu", &o->rate) != 1 &&
		    sscanf(argv[i], "buf=%d", &o->buf) != 1 && sscanf(argv[i], "alarm=%d", &o->alarm) != 1)
			errx(2, "unknown option %s", argv[i]);
	}
	if (!o->size || o->size > PERIOD)
		errx(2, "size: 1 to %d", PERIOD);
}

static inline socklen_t parse_address(const struct options *o, struct sockaddr_storage *sa)
{
	struct sockaddr_in *in = (void *)sa;
	struct sockaddr_in6 *in6 = (void *)sa;

	memset(sa, 0, sizeof(*sa));
	if (inet_pton(AF_INET, o->address, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(o->port);
		return sizeof(*in);
	}
	if (inet_pton(AF_INET6, o->address, &in6->sin6_addr) != 1)
		errx(2, "%s: no address", o->address);
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(o->port);
	return sizeof(*in6);
}

static inline void set_option(int fd, int level, int option, int value, const char *name)
{
	if (setsockopt(fd, level, option, &value, sizeof(value)))
		err(1, "%s", name);
}

/*
 * Things that a careless checkpoint would take away: SO_REUSEADDR, and a
 * filter, which lets everything in and is two instructions long.
 */
static inline void set_marks(int fd)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
		BPF_STMT(BPF_RET | BPF_A, 0),
	};
	struct sock_fprog prog = { 2, code };

	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)))
		err(1, "SO_ATTACH_FILTER");
}

/* Returns the connection. The server says "ready" when it listens, both say
 * "connected". */
static inline int open_connection(const struct options *o)
{
	struct sockaddr_storage sa;
	socklen_t len = parse_address(o, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		err(1, "socket");
	set_marks(fd);
	if (o->buf) {
		set_option(fd, SOL_SOCKET, SO_SNDBUF, o->buf, "SO_SNDBUF");
		set_option(fd, SOL_SOCKET, SO_RCVBUF, o->buf, "SO_RCVBUF");
	}
	if (o->server) {
		int listener = fd;

		if (bind(listener, (struct sockaddr *)&sa, len) || listen(listener, 1))
			err(1, "listen");
		puts("ready");
		fflush(stdout);
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			err(1, "accept");
		close(listener);
	} else if (connect(fd, (struct sockaddr *)&sa, len)) {
		err(1, "connect");
	}
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
	puts("connected");
	fflush(stdout);
	return fd;
}

/* When the next byte may be sent, if so many were since start. */
static inline uint64_t due(const struct options *o, uint64_t start, uint64_t sent)
{
	return o->rate ? start + (uint64_t)((double)sent * 1e9 / o->rate) : 0;
}

#endif
