// SPDX-License-Identifier: MIT
/*
 * seat.c: workers: threads that accept from a listener, in this process. Each
 * claims a CPU in the page that all workers share, and takes a clone as soon
 * as there are two of them.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../shim/sys.h"
#include "fsocket.h"

/* A thread that finds no clone, or no CPU, asks again after so long: workers
 * of an older generation may end meanwhile. */
#define RETRY_NS	100000000ull

/* Clones have numbers from here on if that can be: programs that keep tables
 * by number, and select(2), do well with small ones. */
#define CLONE_FROM	128

/* The seats of this thread. */
#define OWN_SEATS	16

static __thread struct {
	struct record *r;
	uint32_t gen;
	struct seat *seat;
} own[OWN_SEATS] __attribute__((tls_model("initial-exec")));

static pthread_key_t ending;	/* its destructor is called by threads that end */

static pid_t thread_id(void)
{
	return syscall(SYS_gettid);
}

struct seat *seat_known(struct record *r)
{
	uint32_t gen = atomic_load_explicit(&r->gen, memory_order_acquire);

	for (int i = 0; i < OWN_SEATS; i++) {
		if (own[i].r == r && own[i].gen == gen)
			return own[i].seat;
	}
	return NULL;
}

static void seat_remember(struct record *r, struct seat *s)
{
	for (int i = 0; i < OWN_SEATS; i++) {
		/* One of a listener that is not there any more gives way. */
		if (own[i].r && own[i].r != r && own[i].gen == atomic_load(&own[i].r->gen))
			continue;
		own[i].r = r;
		own[i].gen = atomic_load(&r->gen);
		own[i].seat = s;
		return;
	}
}

/* Has it died, and its parent not looked yet? */
static bool zombie(pid_t tid)
{
	char path[32], text[512], *end;
	int fd;
	long n;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	fd = SYS(openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return false;
	n = SYS(read, fd, text, sizeof(text) - 1);
	fd_close(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	end = strrchr(text, ')');	/* "PID (NAME) STATE ..." */
	return end && (end[2] == 'Z' || end[2] == 'X');
}

/* Is there such a thread? One that we may not signal is there, too. */
static bool alive(pid_t tid)
{
	return SYS(tkill, tid, 0) != -ESRCH && !zombie(tid);
}

/* Counts the slots that are taken, and frees those of the dead. */
static void count_workers(struct stackfs_page *p)
{
	uint32_t n = 0;

	for (uint32_t cpu = 0; cpu < p->slots; cpu++) {
		struct stackfs_slot *slot = page_slot(p, cpu);
		uint32_t tid = __atomic_load_n(&slot->tid, __ATOMIC_ACQUIRE);

		if (tid && !alive(tid) &&
		    __atomic_compare_exchange_n(&slot->tid, &tid, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
			__atomic_store_n(&slot->clone, 0, __ATOMIC_RELAXED);
			__atomic_store_n(&slot->flags, 0, __ATOMIC_RELAXED);
			tid = 0;
		}
		n += tid != 0;
	}
	__atomic_store_n(&p->workers, n, __ATOMIC_RELEASE);
}

static bool claim(struct stackfs_page *p, int cpu, pid_t tid)
{
	uint32_t none = 0;

	return (uint32_t)cpu < p->slots && __atomic_compare_exchange_n(&page_slot(p, cpu)->tid, &none, tid, false,
								      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/*
 * The CPU of a worker: the one that the user bound it to, else (mode 2) the
 * first free one of those that it may run on. -1: none.
 */
static int claim_cpu(struct stackfs_page *p, struct seat *s, pid_t tid)
{
	int bound;

	CPU_ZERO(&s->user_mask);
	if (sched_getaffinity(0, sizeof(s->user_mask), &s->user_mask))
		return -1;
	bound = CPU_COUNT(&s->user_mask) == 1;
	if (p->mode == 0 || (p->mode == 1 && !bound))
		return -1;
	count_workers(p);
	for (int cpu = 0; cpu < CPU_SETSIZE && (uint32_t)cpu < p->slots; cpu++) {
		if (CPU_ISSET(cpu, &s->user_mask) && claim(p, cpu, tid)) {
			count_workers(p);
			return cpu;
		}
	}
	return -1;
}

static struct seat *seat_free(struct record *r)
{
	struct seat *s;

	for (s = atomic_load(&r->seats); s; s = s->next) {
		pid_t none = 0;

		if (atomic_compare_exchange_strong(&s->tid, &none, -1))
			return s;
	}
	s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return NULL;
	atomic_store(&s->clone, -1);
	atomic_store(&s->tid, -1);
	s->next = atomic_load(&r->seats);
	atomic_store_explicit(&r->seats, s, memory_order_release);
	return s;
}

struct seat *seat_get(struct record *r)
{
	struct seat *s = seat_known(r);
	pid_t tid;

	if (s)
		return s;
	tid = thread_id();
	table_lock();
	s = seat_free(r);
	if (s) {
		atomic_store(&s->clone, -1);
		s->tagged = s->pinned = s->blocks = false;
		s->turn = s->sample = 0;
		s->retry = 0;
		for (int i = 0; i < SEAT_EPOLLS; i++)
			s->waits[i].epfd = -1;
		s->cpu = claim_cpu(atomic_load(&r->page), s, tid);
		atomic_store(&s->tid, tid);
		seat_remember(r, s);
		pthread_setspecific(ending, own);
		debug("thread %d accepts from %d, CPU %d", tid, r->fd, s->cpu);
	}
	table_unlock();
	return s;
}

static void seat_publish(struct record *r, struct seat *s, uint64_t cookie)
{
	struct stackfs_slot *slot = page_slot(atomic_load(&r->page), s->cpu);

	__atomic_store_n(&slot->clone, cookie, __ATOMIC_RELAXED);
}

/* Closes the clone, unless its number is another file's by now. */
static void clone_close(struct seat *s)
{
	int clone = atomic_exchange(&s->clone, -1);

	if (clone < 0)
		return;
	ours_set(clone, false);
	if (fd_cookie(clone) == s->cookie)
		fd_close(clone);
}

/*
 * Gives the worker a listener of its own. Where that fails it goes on with the
 * original, as without us.
 */
void seat_upgrade(struct record *r, struct seat *s)
{
	struct stackfs_page *p = atomic_load(&r->page);
	uint64_t now, cookie;
	int fd, high, ret;

	if (p->mode == 0)
		return;
	now = coarse_ns();
	if (now < s->retry)
		return;
	s->retry = now + RETRY_NS;
	if (s->cpu < 0)
		s->cpu = claim_cpu(p, s, thread_id());
	if (s->cpu < 0 || !crowded(r))
		return;
	fd = r->box < 0 ? device_take(r->fd, s->cpu) : box_take(r->box, r->box_cookie);
	if (fd < 0) {
		debug("no clone of %d: %s", r->fd, strerror(-fd));
		return;
	}
	high = SYS(fcntl, fd, F_DUPFD_CLOEXEC, CLONE_FROM);
	if (high >= 0) {
		fd_close(fd);
		fd = high;
	}
	cookie = fd_cookie(fd);
	ours_set(fd, true);
	s->cookie = cookie;
	/* Tagged before it listens: it gets nothing that is not for it. */
	atomic_store(&s->clone, fd);
	steer_on(r, s);
	ret = SYS(listen, fd, r->backlog);
	if (ret) {
		debug("the clone of %d does not listen: %s", r->fd, strerror(-ret));
		clone_close(s);
		return;
	}
	seat_publish(r, s, cookie);
	for (int i = 0; i < SEAT_EPOLLS; i++) {
		if (s->waits[i].epfd < 0)
			continue;
		wait_add(r, s, &s->waits[i]);
		wait_exclusive(r, &s->waits[i]);
	}
	debug("thread %d has a clone of %d for CPU %d", thread_id(), r->fd, s->cpu);
}

/* The daemon has taken the clone away, since nobody accepted from it. */
void seat_clone_gone(struct record *r, struct seat *s)
{
	int clone = atomic_load(&s->clone);

	if (clone < 0)
		return;
	if (fd_cookie(clone) == s->cookie && SYS(listen, clone, r->backlog) == 0) {
		debug("the clone of %d listens again", r->fd);
		return;
	}
	clone_close(s);
	s->retry = 0;
}

/* Called with the lock held. */
void seat_leave(struct record *r, struct seat *s)
{
	pid_t tid = atomic_load(&s->tid);
	struct stackfs_page *p = atomic_load(&r->page);

	clone_close(s);
	if (tid > 0 && s->cpu >= 0) {
		struct stackfs_slot *slot = page_slot(p, s->cpu);
		uint32_t seen = tid;

		__atomic_compare_exchange_n(&slot->tid, &seen, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
		__atomic_store_n(&slot->flags, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&slot->clone, 0, __ATOMIC_RELAXED);
		count_workers(p);
	}
	if (s->pinned && tid > 0)
		sched_setaffinity(tid, sizeof(s->user_mask), &s->user_mask);
	s->pinned = false;
	atomic_store(&s->tid, 0);
}

/* A thread ends: nobody accepts from its clones any more. */
static void thread_ends(void *unused)
{
	(void)unused;
	table_lock();
	for (int i = 0; i < OWN_SEATS; i++) {
		struct record *r = own[i].r;

		if (r && own[i].gen == atomic_load(&r->gen))
			seat_leave(r, own[i].seat);
		own[i].r = NULL;
	}
	table_unlock();
}

void seats_start(void)
{
	pthread_key_create(&ending, thread_ends);
}

/* In the child of fork: what the threads of the parent had is not ours. */
void seats_forked(void)
{
	for (int fd = 0; fd < TABLE_SIZE; fd++) {
		struct record *r = record_of(fd);

		if (!r)
			continue;
		for (struct seat *s = atomic_load(&r->seats); s; s = s->next) {
			clone_close(s);
			/* A worker of ours that is pinned by inheritance. */
			if (s->pinned)
				sched_setaffinity(0, sizeof(s->user_mask), &s->user_mask);
			s->pinned = false;
			atomic_store(&s->tid, 0);
		}
	}
	memset(own, 0, sizeof(own));
}
