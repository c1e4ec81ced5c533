// SPDX-License-Identifier: MIT
/*
 * accept.c: accept from the clone or the original, whichever has something.
 */
#include <sys/ioctl.h>
#include <sys/time.h>
#include <stdarg.h>

#include "../shim/sys.h"
#include "fsocket.h"

/* Every so many accepts the original comes first, so that it does not starve. */
#define ORIGINAL_FIRST	16

/* accept4(2); -1 with errno, which is EAGAIN if there is nothing. */
static int take(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	return REAL(accept4)(fd, addr, len, flags);
}

static bool nothing(int fd)
{
	return fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/*
 * A blocking accept of the original could not be left when the clone has
 * something. So it is made non-blocking, for all processes that have it, and
 * those who think that it blocks wait here; fcntl shows what they think.
 */
static void force(struct record *r)
{
	int mode;

	if (!atomic_load_explicit(&r->blocking, memory_order_relaxed) || atomic_load(&r->forced))
		return;
	mode = SYS(fcntl, r->fd, F_GETFL, 0);
	if (mode >= 0 && !(mode & O_NONBLOCK))
		SYS(fcntl, r->fd, F_SETFL, mode | O_NONBLOCK);
	atomic_store(&r->forced, true);
}

/* Milliseconds that a blocking accept may take; -1: for ever. */
static int patience(int fd)
{
	struct timeval tv = {};
	socklen_t len = sizeof(tv);

	if (SYS(getsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &len) < 0 || (!tv.tv_sec && !tv.tv_usec))
		return -1;
	return tv.tv_sec * 1000 + (tv.tv_usec + 999) / 1000;
}

static bool clone_ended(int fd)
{
	return fd < 0 && (errno == EINVAL || errno == EBADF || errno == ENOTSOCK);
}

/* From the clone of a seat. */
static int take_clone(struct record *r, struct seat *s, struct sockaddr *addr, socklen_t *len, int flags)
{
	int clone = atomic_load_explicit(&s->clone, memory_order_relaxed);
	int fd;

	if (clone < 0) {
		errno = EAGAIN;
		return -1;
	}
	fd = take(clone, addr, len, flags);
	if (clone_ended(fd)) {
		seat_clone_gone(r, s);
		errno = EAGAIN;
	}
	if (fd >= 0)
		steer_accepted(r, s, fd, true);
	return fd;
}

static int take_original(struct record *r, struct seat *s, struct sockaddr *addr, socklen_t *len, int flags)
{
	int fd = take(r->fd, addr, len, flags);

	if (fd >= 0)
		steer_accepted(r, s, fd, false);
	return fd;
}

/* Once from each; EAGAIN if none has anything. */
static int take_any(struct record *r, struct seat *s, struct sockaddr *addr, socklen_t *len, int flags)
{
	int fd;

	if (s->turn++ % ORIGINAL_FIRST == ORIGINAL_FIRST - 1) {
		fd = take_original(r, s, addr, len, flags);
		return nothing(fd) ? take_clone(r, s, addr, len, flags) : fd;
	}
	fd = take_clone(r, s, addr, len, flags);
	return nothing(fd) ? take_original(r, s, addr, len, flags) : fd;
}

static int take_blocking(struct record *r, struct seat *s, struct sockaddr *addr, socklen_t *len, int flags)
{
	int timeout = patience(r->fd);

	for (;;) {
		struct pollfd p[2] = { { r->fd, POLLIN, 0 }, { atomic_load(&s->clone), POLLIN, 0 } };
		int fd = take_any(r, s, addr, len, flags), n;

		if (!nothing(fd))
			return fd;
		n = REAL(poll)(p, 2, timeout);
		if (n == 0)
			errno = EAGAIN;
		if (n <= 0)
			return -1;
	}
}

/*
 * A thread that has never waited for this listener, where others of the
 * process have: it accepts what these are told of.
 */
static int take_of_others(struct record *r, struct sockaddr *addr, socklen_t *len, int flags)
{
	for (struct seat *s = atomic_load_explicit(&r->seats, memory_order_acquire); s; s = s->next) {
		int clone = atomic_load_explicit(&s->clone, memory_order_relaxed);
		int fd;

		if (atomic_load_explicit(&s->tid, memory_order_relaxed) <= 0 || clone < 0 || s->blocks)
			continue;
		fd = take(clone, addr, len, flags);
		if (!nothing(fd) && !clone_ended(fd))
			return fd;
	}
	return take(r->fd, addr, len, flags);
}

static bool others_wait(struct record *r)
{
	for (struct seat *s = atomic_load_explicit(&r->seats, memory_order_acquire); s; s = s->next) {
		if (atomic_load(&s->tid) > 0 && !s->blocks)
			return true;
	}
	return false;
}

static int accept_from(struct record *r, struct sockaddr *addr, socklen_t *len, int flags)
{
	struct seat *s = seat_known(r);
	int fd;

	if (!s) {
		bool block = atomic_load(&r->blocking);

		if (!block && others_wait(r))
			return take_of_others(r, addr, len, flags);
		s = seat_get(r);
		if (!s)
			return take(r->fd, addr, len, flags);
		s->blocks = block;
	}
	if (atomic_load_explicit(&s->clone, memory_order_relaxed) < 0) {
		if (crowded(r) || s->cpu < 0)
			seat_upgrade(r, s);
		if (atomic_load(&s->clone) < 0) {
			s->turn++;
			fd = take_original(r, s, addr, len, flags);
			/* Another process has made it non-blocking. */
			if (!nothing(fd) || !atomic_load(&r->blocking))
				return fd;
		}
	}
	force(r);
	if (atomic_load_explicit(&r->blocking, memory_order_relaxed))
		return take_blocking(r, s, addr, len, flags);
	return take_any(r, s, addr, len, flags);
}

hook int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	struct record *r = record_of(fd);

	return r ? accept_from(r, addr, len, flags) : REAL(accept4)(fd, addr, len, flags);
}

hook int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	struct record *r = record_of(fd);

	return r ? accept_from(r, addr, len, 0) : REAL(accept)(fd, addr, len);
}

/* The program asks for, or sets, the flags of a listener. */
static long status_flags(struct record *r, int cmd, long arg, long (*real)(int, int, long))
{
	long mode;

	if (cmd == F_SETFL) {
		atomic_store(&r->blocking, !(arg & O_NONBLOCK));
		return real(r->fd, F_SETFL, atomic_load(&r->forced) ? arg | O_NONBLOCK : arg);
	}
	mode = real(r->fd, F_GETFL, 0);
	if (mode >= 0 && atomic_load(&r->blocking))
		mode &= ~O_NONBLOCK;
	return mode;
}

static long fcntl_any(int fd, int cmd, long arg, long (*real)(int, int, long))
{
	struct record *r = cmd == F_GETFL || cmd == F_SETFL ? record_of(fd) : NULL;

	return r ? status_flags(r, cmd, arg, real) : real(fd, cmd, arg);
}

hook int fcntl(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	return fcntl_any(fd, cmd, arg, (long (*)(int, int, long))real_find(REAL_fcntl));
}

hook int fcntl64(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	return fcntl_any(fd, cmd, arg, (long (*)(int, int, long))real_find(REAL_fcntl64));
}

hook int ioctl(int fd, unsigned long request, ...)
{
	struct record *r = request == FIONBIO ? record_of(fd) : NULL;
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (r) {
		atomic_store(&r->blocking, !*(int *)arg);
		if (atomic_load(&r->forced))
			return 0;
	}
	return REAL(ioctl)(fd, request, arg);
}
