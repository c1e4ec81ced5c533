// SPDX-License-Identifier: MIT
/*
 * poll.c: poll and select on a listener look at its clone, too.
 */
#define __SANE_USERSPACE_TYPES__
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "../shim/sys.h"
#include "fsocket.h"

/* Listeners that one call looks at; later ones by the original alone. */
#define EXTRA		64
#define ON_STACK	256

/* A clone that stands in the call beside its original. */
struct extra {
	int at;		/* index of the original, or its number */
	int clone;
};

/* The clone of a listener, for a thread that waits by poll or select. */
static int clone_for(int fd)
{
	struct record *r = record_of(fd);
	struct seat *s = r ? seat_get(r) : NULL;

	if (!s)
		return -1;
	if (atomic_load(&s->clone) < 0 && crowded(r))
		seat_upgrade(r, s);
	return atomic_load(&s->clone);
}

static int find_polled(const struct pollfd *fds, nfds_t n, struct extra *x)
{
	int count = 0;

	for (nfds_t i = 0; i < n && count < EXTRA; i++) {
		int clone;

		if (fds[i].fd < 0 || !(fds[i].events & POLLIN) || !record_of(fds[i].fd))
			continue;
		clone = clone_for(fds[i].fd);
		if (clone >= 0)
			x[count++] = (struct extra){ i, clone };
	}
	return count;
}

/* Quick: nothing in here is a listener. */
static bool polls_listener(const struct pollfd *fds, nfds_t n)
{
	if (!enabled)
		return false;
	for (nfds_t i = 0; i < n; i++) {
		if (fds[i].fd >= 0 && record_of(fds[i].fd))
			return true;
	}
	return false;
}

/* Writes what the clones say to their originals; returns how many entries
 * have something. */
static int merge_polled(struct pollfd *fds, nfds_t n, const struct pollfd *all, const struct extra *x, int count)
{
	int ready = 0;

	for (nfds_t i = 0; i < n; i++)
		fds[i].revents = all[i].revents;
	for (int k = 0; k < count; k++) {
		/* An error of the clone is found out by accepting. */
		if (all[n + k].revents)
			fds[x[k].at].revents |= POLLIN;
	}
	for (nfds_t i = 0; i < n; i++)
		ready += fds[i].revents != 0;
	return ready;
}

static int poll_both(struct pollfd *fds, nfds_t n, const struct timespec *ts, int timeout, const sigset_t *mask, bool precise)
{
	struct pollfd some[ON_STACK], *all = some;
	struct extra x[EXTRA];
	int count = find_polled(fds, n, x), ret, err;

	if (n + count > ON_STACK)
		all = malloc((n + count) * sizeof(*all));
	if (!all) {
		errno = ENOMEM;
		return -1;
	}
	memcpy(all, fds, n * sizeof(*fds));
	for (int k = 0; k < count; k++)
		all[n + k] = (struct pollfd){ .fd = x[k].clone, .events = POLLIN };
	ret = precise ? REAL(ppoll)(all, n + count, ts, mask) : REAL(poll)(all, n + count, timeout);
	err = errno;
	if (ret >= 0)
		ret = merge_polled(fds, n, all, x, count);
	if (all != some)
		free(all);
	errno = err;
	return ret;
}

hook int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	if (!polls_listener(fds, n))
		return REAL(poll)(fds, n, timeout);
	return poll_both(fds, n, NULL, timeout, NULL, false);
}

hook int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask)
{
	if (!polls_listener(fds, n))
		return REAL(ppoll)(fds, n, ts, mask);
	return poll_both(fds, n, ts, 0, mask, true);
}

/* What programs call that were compiled with _FORTIFY_SOURCE. */
hook int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t len)
{
	if (len / sizeof(*fds) < n)
		abort();
	return poll(fds, n, timeout);
}

hook int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask, size_t len)
{
	if (len / sizeof(*fds) < n)
		abort();
	return ppoll(fds, n, ts, mask);
}

static int find_selected(int n, const fd_set *in, struct extra *x)
{
	int count = 0;

	if (!enabled || !in)
		return 0;
	for (int fd = 0; fd < n && fd < FD_SETSIZE && count < EXTRA; fd++) {
		int clone;

		if (!FD_ISSET(fd, in) || !record_of(fd))
			continue;
		clone = clone_for(fd);
		if (clone >= 0 && clone < FD_SETSIZE)
			x[count++] = (struct extra){ fd, clone };
	}
	return count;
}

static int add_selected(int n, fd_set *in, const struct extra *x, int count)
{
	for (int k = 0; k < count; k++) {
		FD_SET(x[k].clone, in);
		if (x[k].clone >= n)
			n = x[k].clone + 1;
	}
	return n;
}

/* Of a clone that is ready its original is; returns the number that are. */
static int merge_selected(int ret, fd_set *in, const struct extra *x, int count)
{
	for (int k = 0; k < count; k++) {
		if (!FD_ISSET(x[k].clone, in))
			continue;
		FD_CLR(x[k].clone, in);
		ret -= FD_ISSET(x[k].at, in) ? 1 : 0;
		FD_SET(x[k].at, in);
	}
	return ret;
}

/* A whole set, of which the program may have less. */
static void copy_set(fd_set *to, const fd_set *from, int n)
{
	memset(to, 0, sizeof(*to));
	memcpy(to, from, (n + 63) / 64 * 8);
}

static int select_both(int n, fd_set *in, fd_set *out, fd_set *ex, struct timeval *tv, const struct timespec *ts,
		       const sigset_t *mask, bool precise, const struct extra *x, int count)
{
	fd_set sets[3];
	int all, ret;

	copy_set(&sets[0], in, n);
	if (out)
		copy_set(&sets[1], out, n);
	if (ex)
		copy_set(&sets[2], ex, n);
	all = add_selected(n, &sets[0], x, count);
	ret = precise ? REAL(pselect)(all, &sets[0], out ? &sets[1] : NULL, ex ? &sets[2] : NULL, ts, mask) :
			REAL(select)(all, &sets[0], out ? &sets[1] : NULL, ex ? &sets[2] : NULL, tv);
	if (ret < 0)
		return ret;
	ret = merge_selected(ret, &sets[0], x, count);
	memcpy(in, &sets[0], (n + 63) / 64 * 8);
	if (out)
		memcpy(out, &sets[1], (n + 63) / 64 * 8);
	if (ex)
		memcpy(ex, &sets[2], (n + 63) / 64 * 8);
	return ret;
}

hook int select(int n, fd_set *in, fd_set *out, fd_set *ex, struct timeval *tv)
{
	struct extra x[EXTRA];
	int count = find_selected(n, in, x);

	if (!count)
		return REAL(select)(n, in, out, ex, tv);
	return select_both(n, in, out, ex, tv, NULL, NULL, false, x, count);
}

hook int pselect(int n, fd_set *in, fd_set *out, fd_set *ex, const struct timespec *ts, const sigset_t *mask)
{
	struct extra x[EXTRA];
	int count = find_selected(n, in, x);

	if (!count)
		return REAL(pselect)(n, in, out, ex, ts, mask);
	return select_both(n, in, out, ex, NULL, ts, mask, true, x, count);
}
