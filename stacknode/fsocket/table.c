// SPDX-License-Identifier: MIT
/*
 * table.c: which descriptors are listeners with clones.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../shim/sys.h"
#include "fsocket.h"

#define NODE	"/dev/net/fast"

/* Descriptors that a program may have been started with as listeners. */
#define INHERITED	64

_Atomic(struct record *) table[TABLE_SIZE];
bool enabled;

/* Descriptors of ours: the program may close what it does not know. */
static _Atomic(uint64_t) ours[TABLE_SIZE / 64];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *node = NODE;
static bool by_device;	/* there is no node, but the kernel module */
static bool verbose;

void table_lock(void)
{
	pthread_mutex_lock(&lock);
}

void table_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

void debug(const char *format, ...)
{
	char text[256];
	va_list args;
	int n;

	if (!verbose)
		return;
	n = snprintf(text, sizeof(text), "libfsocket[%d]: ", getpid());
	va_start(args, format);
	vsnprintf(text + n, sizeof(text) - n, format, args);
	va_end(args);
	dprintf(STDERR_FILENO, "%s\n", text);
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return SYS(getsockopt, fd, level, name, &value, &len) < 0 ? -1 : value;
}

/* A TCP socket; listens: whether it does already. */
static bool is_tcp(int fd, bool listens)
{
	int domain = option(fd, SOL_SOCKET, SO_DOMAIN);

	return (domain == AF_INET || domain == AF_INET6) && option(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM &&
	       option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP && option(fd, SOL_SOCKET, SO_ACCEPTCONN) == listens;
}

void ours_set(int fd, bool on)
{
	if ((unsigned int)fd >= TABLE_SIZE)
		return;
	if (on)
		atomic_fetch_or(&ours[fd / 64], 1ull << fd % 64);
	else
		atomic_fetch_and(&ours[fd / 64], ~(1ull << fd % 64));
}

static bool is_ours(int fd)
{
	return (unsigned int)fd < TABLE_SIZE && atomic_load_explicit(&ours[fd / 64], memory_order_relaxed) >> fd % 64 & 1;
}

/* The record of a number, which is not in use. Called with the lock held. */
static struct record *record_place(int fd)
{
	struct record *r = atomic_load(&table[fd]);

	if (r)
		return r;
	r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r == MAP_FAILED)
		return NULL;
	r->fd = fd;
	r->box = -1;
	atomic_store_explicit(&table[fd], r, memory_order_release);
	return r;
}

static void page_unmap(struct record *r)
{
	struct stackfs_page *p = atomic_exchange(&r->page, NULL);

	if (p)
		munmap(p, sizeof(*p) + p->slots * sizeof(struct stackfs_slot));
}

/* Asks for clones; if there are none to be had the program goes on alone. */
void record_make(int fd, int backlog)
{
	struct spawned got = { .box = -1 };
	struct record *r;
	uint64_t cookie;
	int ret;

	if ((unsigned int)fd >= TABLE_SIZE)
		return;
	cookie = fd_cookie(fd);
	ret = by_device ? device_listen(&got) : node_listen(node, fd, cookie, &got);
	if (ret) {
		debug("listener %d has no clones: %s: %s", fd, by_device ? "device" : node, strerror(-ret));
		return;
	}
	table_lock();
	r = record_place(fd);
	if (!r || atomic_load(&r->gen) & 1) {
		fd_close(got.box);
		munmap(got.page, sizeof(*got.page) + got.page->slots * sizeof(struct stackfs_slot));
		table_unlock();
		return;
	}
	page_unmap(r);	/* of the listener that had this number before */
	r->cookie = cookie;
	r->backlog = backlog;
	r->box = got.box;
	r->box_cookie = fd_cookie(got.box);
	if (got.box >= 0)
		ours_set(got.box, true);
	atomic_store(&r->forced, false);
	atomic_store(&r->blocking, !(SYS(fcntl, fd, F_GETFL, 0) & O_NONBLOCK));
	atomic_store(&r->page, got.page);
	atomic_fetch_add_explicit(&r->gen, 1, memory_order_release);
	table_unlock();
	debug("listener %d may have clones", fd);
}

/* Called with the lock held. */
static void record_end(struct record *r)
{
	atomic_fetch_add_explicit(&r->gen, 1, memory_order_release);
	for (struct seat *s = atomic_load(&r->seats); s; s = s->next)
		seat_leave(r, s);
	if (r->box >= 0) {
		ours_set(r->box, false);
		if (fd_cookie(r->box) == r->box_cookie)
			fd_close(r->box);
	}
	r->box = -1;
}

void record_drop(int fd)
{
	struct record *r;

	table_lock();
	r = record_of(fd);
	if (r)
		record_end(r);
	table_unlock();
}

void record_lost(int fd)
{
	ours_set(fd, false);
	for (int i = 0; i < TABLE_SIZE; i++) {
		struct record *r = record_of(i);

		if (!r)
			continue;
		if (r->box == fd)
			r->box = -1;
		for (struct seat *s = atomic_load(&r->seats); s; s = s->next) {
			int clone = fd;

			atomic_compare_exchange_strong(&s->clone, &clone, -1);
		}
	}
}

void record_backlog(struct record *r, int backlog)
{
	table_lock();
	r->backlog = backlog;
	for (struct seat *s = atomic_load(&r->seats); s; s = s->next) {
		int clone = atomic_load(&s->clone);

		if (clone >= 0)
			SYS(listen, clone, backlog);
	}
	table_unlock();
}

void record_shutdown(struct record *r, int how)
{
	for (struct seat *s = atomic_load(&r->seats); s; s = s->next) {
		int clone = atomic_load(&s->clone);

		if (clone >= 0)
			SYS(shutdown, clone, how);
	}
}

/* ---- the hooks that make and end listeners ---- */

hook int listen(int fd, int backlog)
{
	struct record *r = record_of(fd);
	int ret;

	if (r) {
		ret = REAL(listen)(fd, backlog);
		if (!ret)
			record_backlog(r, backlog);
		return ret;
	}
	if (enabled && is_tcp(fd, false))
		record_make(fd, backlog);
	ret = REAL(listen)(fd, backlog);
	if (ret) {
		int err = errno;

		record_drop(fd);
		errno = err;
	}
	return ret;
}

/* A number that the program closes, or gives to another file. */
static void number_taken(int fd)
{
	if (record_of(fd))
		record_drop(fd);
	else if (is_ours(fd))
		record_lost(fd);
}

hook int close(int fd)
{
	int err = errno;

	number_taken(fd);
	errno = err;
	return REAL(close)(fd);
}

hook int shutdown(int fd, int how)
{
	struct record *r = record_of(fd);

	if (r)
		record_shutdown(r, how);
	return REAL(shutdown)(fd, how);
}

hook int dup2(int old, int new)
{
	if (old != new)
		number_taken(new);
	return REAL(dup2)(old, new);
}

hook int dup3(int old, int new, int flags)
{
	if (old != new)
		number_taken(new);
	return REAL(dup3)(old, new, flags);
}

static void range_closed(unsigned int first, unsigned int last)
{
	for (unsigned int fd = first; fd <= last && fd < TABLE_SIZE; fd++) {
		number_taken(fd);
	}
}

hook int close_range(unsigned int first, unsigned int last, int flags)
{
	if (enabled && !flags)
		range_closed(first, last);
	return REAL(close_range)(first, last, flags);
}

hook void closefrom(int first)
{
	if (enabled)
		range_closed(first < 0 ? 0 : first, TABLE_SIZE - 1);
	REAL(closefrom)(first);
}

/* ---- start and fork ---- */

static void before_fork(void)
{
	table_lock();
}

static void after_fork(void)
{
	table_unlock();
}

static void child_of_fork(void)
{
	pthread_mutex_init(&lock, NULL);
	seats_forked();
}

/* The backlog of a listener, which TCP_INFO has as "sacked". */
static int backlog_of(int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	if (SYS(getsockopt, fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return SOMAXCONN;
	return info.tcpi_sacked;
}

/*
 * Listeners that an earlier program has handed on. Not later: a worker may not
 * have the rights any more.
 */
static void adopt_inherited(void)
{
	for (int fd = STDIN_FILENO; fd < INHERITED; fd++) {
		if (option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1 && option(fd, SOL_SOCKET, SO_REUSEPORT) == 1 && is_tcp(fd, true))
			record_make(fd, backlog_of(fd));
	}
}

static __attribute__((constructor)) void start(void)
{
	const char *path = getenv("STACKFS_FAST");

	real_find_all();
	verbose = getenv("FSOCKET_DEBUG") != NULL;
	if (path) {
		/* Programs write over their environment to change their title. */
		node = strdup(path);
		if (!node)
			return;
	}
	by_device = SYS(faccessat, AT_FDCWD, node, F_OK) && device_exists();
	if (!by_device && SYS(faccessat, AT_FDCWD, node, F_OK)) {
		debug("there is no %s: the program runs as without me", node);
		return;
	}
	enabled = true;
	seats_start();
	pthread_atfork(before_fork, after_fork, child_of_fork);
	adopt_inherited();
}
