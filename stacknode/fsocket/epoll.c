// SPDX-License-Identifier: MIT
/*
 * epoll.c: who waits for the listener waits for the clone too, and is told of
 * both with the same data.
 */
#include <string.h>

#include "../shim/sys.h"
#include "fsocket.h"

/* What may stand beside EPOLLEXCLUSIVE (fs/eventpoll.c). */
#define EXCLUSIVE_OK	(EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE)
/* What never happens to a listener. */
#define NEVER		(EPOLLRDHUP | EPOLLPRI)

static int control(int epfd, int op, int fd, const struct epoll_event *ev)
{
	struct epoll_event copy = ev ? *ev : (struct epoll_event){};

	return SYS(epoll_ctl, epfd, op, fd, ev ? &copy : NULL);
}

/* Waits for the clone as the program waits for the original. */
int wait_add(struct record *r, struct seat *s, const struct wait *w)
{
	struct epoll_event ev = w->ev;
	int ret;

	ev.events &= ~EPOLLEXCLUSIVE;	/* nobody else waits for it */
	ret = control(w->epfd, EPOLL_CTL_ADD, atomic_load(&s->clone), &ev);
	if (ret)
		debug("epoll of the clone of %d: %s", r->fd, strerror(-ret));
	return ret;
}

/* Of the workers that wait for the original, one is woken. */
void wait_exclusive(struct record *r, const struct wait *w)
{
	struct epoll_event ev = w->ev;

	ev.events = (ev.events & ~NEVER) | EPOLLEXCLUSIVE;
	if (w->ev.events & EPOLLEXCLUSIVE || ev.events & ~EXCLUSIVE_OK)
		return;
	if (control(w->epfd, EPOLL_CTL_DEL, r->fd, NULL))
		return;
	if (control(w->epfd, EPOLL_CTL_ADD, r->fd, &ev))
		control(w->epfd, EPOLL_CTL_ADD, r->fd, &w->ev);
}

static struct wait *wait_of(struct seat *s, int epfd)
{
	for (int i = 0; i < SEAT_EPOLLS; i++) {
		if (s->waits[i].epfd == epfd)
			return &s->waits[i];
	}
	return NULL;
}

static int begin_wait(struct record *r, struct seat *s, int epfd, const struct epoll_event *ev)
{
	int ret = control(epfd, EPOLL_CTL_ADD, r->fd, ev);
	struct wait *w;

	if (ret)
		return ret;
	w = wait_of(s, epfd);
	if (!w)
		w = wait_of(s, -1);
	if (!w)
		return 0;	/* more than we keep: by the original alone */
	w->epfd = epfd;
	w->ev = *ev;
	if (atomic_load(&s->clone) >= 0) {
		wait_add(r, s, w);
		wait_exclusive(r, w);
	} else if (crowded(r)) {
		seat_upgrade(r, s);
	}
	return 0;
}

static int change_wait(struct record *r, struct seat *s, int epfd, const struct epoll_event *ev)
{
	struct wait *w = wait_of(s, epfd);
	int clone = atomic_load(&s->clone), ret;

	if (!w || clone < 0) {
		if (w)
			w->ev = *ev;
		return control(epfd, EPOLL_CTL_MOD, r->fd, ev);
	}
	/* What is exclusive cannot be modified. */
	ret = control(epfd, EPOLL_CTL_DEL, r->fd, NULL);
	if (!ret)
		ret = control(epfd, EPOLL_CTL_ADD, r->fd, ev);
	if (ret)
		return ret;
	w->ev = *ev;
	wait_exclusive(r, w);
	if (control(epfd, EPOLL_CTL_MOD, clone, ev) == -ENOENT)
		wait_add(r, s, w);
	return 0;
}

static int end_wait(struct record *r, struct seat *s, int epfd)
{
	struct wait *w = wait_of(s, epfd);
	int clone = atomic_load(&s->clone);

	if (w)
		w->epfd = -1;
	if (clone >= 0)
		control(epfd, EPOLL_CTL_DEL, clone, NULL);
	return control(epfd, EPOLL_CTL_DEL, r->fd, NULL);
}

/* The seat of whoever waits there already, who may be another thread. */
static struct seat *waiter(struct record *r, int epfd)
{
	struct seat *s;

	for (s = atomic_load_explicit(&r->seats, memory_order_acquire); s; s = s->next) {
		if (atomic_load(&s->tid) > 0 && wait_of(s, epfd))
			return s;
	}
	return NULL;
}

static int listener_ctl(struct record *r, int epfd, int op, const struct epoll_event *ev)
{
	struct seat *s;

	switch (op) {
	case EPOLL_CTL_ADD:
		s = seat_get(r);
		return s ? begin_wait(r, s, epfd, ev) : control(epfd, op, r->fd, ev);
	case EPOLL_CTL_MOD:
		s = waiter(r, epfd);
		return s ? change_wait(r, s, epfd, ev) : control(epfd, op, r->fd, ev);
	case EPOLL_CTL_DEL:
		s = waiter(r, epfd);
		return s ? end_wait(r, s, epfd) : control(epfd, op, r->fd, NULL);
	}
	return -EINVAL;
}

hook int epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
	struct record *r = record_of(fd);
	int ret;

	if (!r || (!ev && op != EPOLL_CTL_DEL))
		return REAL(epoll_ctl)(epfd, op, fd, ev);
	ret = listener_ctl(r, epfd, op, ev);
	if (ret < 0) {
		errno = -ret;
		return -1;
	}
	return 0;
}
