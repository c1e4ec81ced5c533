// SPDX-License-Identifier: MIT
/*
 * steer.c: connections to the worker on their CPU, while that is of use.
 *
 * When most connections arrive on few CPUs, steering would leave the other
 * workers idle. All workers count in the page where connections arrive; about
 * every 50 ms one of them judges, and the others follow at their next accept:
 * they take the CPU off their clones, so that the kernel spreads what arrives
 * over all of them, and lift the pinning that they set.
 */
#include <time.h>

#include "../shim/sys.h"
#include "fsocket.h"

#define WINDOW_NS	50000000ull
#define WINDOW_CONNS	64	/* fewer say nothing */
#define LOOK_EVERY	32	/* accepts */
#define SAMPLE_EVERY	8	/* connections whose CPU is asked for */

#define SKEWED_WINDOWS	2
#define BALANCED_WINDOWS 4

/* What the workers keep in the reserved fields of the page. */
#define PAGE_WINDOW	0	/* resv2: when it began, nanoseconds */
#define PAGE_SKEWED	1	/* resv2: windows one after another */
#define PAGE_BALANCED	2
#define SLOT_ARRIVED	0	/* resv: arrived at the begin of the window */

uint64_t coarse_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static void add(__u64 *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static void flags(struct record *r, struct seat *s)
{
	struct stackfs_slot *slot = page_slot(atomic_load(&r->page), s->cpu);

	__atomic_store_n(&slot->flags, (s->tagged ? STACKFS_SLOT_TAGGED : 0) | (s->pinned ? STACKFS_SLOT_PINNED : 0),
			 __ATOMIC_RELAXED);
}

void steer_on(struct record *r, struct seat *s)
{
	struct stackfs_page *p = atomic_load(&r->page);
	int clone = atomic_load(&s->clone);
	uint32_t none = STACKFS_STEER_NONE;

	if (SYS(setsockopt, clone, SOL_SOCKET, SO_INCOMING_CPU, &s->cpu, sizeof(s->cpu)))
		return;
	s->tagged = true;
	if (p->mode == 2 && CPU_COUNT(&s->user_mask) > 1) {
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET(s->cpu, &one);
		s->pinned = sched_setaffinity(0, sizeof(one), &one) == 0;
	}
	flags(r, s);
	if (__atomic_compare_exchange_n(&p->reason, &none, STACKFS_STEER_BALANCED, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		__atomic_store_n(&p->since, coarse_ns(), __ATOMIC_RELAXED);
}

void steer_off(struct record *r, struct seat *s)
{
	static const int none = -1;

	SYS(setsockopt, atomic_load(&s->clone), SOL_SOCKET, SO_INCOMING_CPU, &none, sizeof(none));
	s->tagged = false;
	if (s->pinned)
		sched_setaffinity(0, sizeof(s->user_mask), &s->user_mask);
	s->pinned = false;
	flags(r, s);
}

static void decide(struct stackfs_page *p, uint32_t reason)
{
	__atomic_store_n(&p->reason, reason, __ATOMIC_RELAXED);
	__atomic_store_n(&p->since, coarse_ns(), __ATOMIC_RELAXED);
	__atomic_store_n(&p->resv2[PAGE_SKEWED], 0, __ATOMIC_RELAXED);
	__atomic_store_n(&p->resv2[PAGE_BALANCED], 0, __ATOMIC_RELAXED);
	debug("steering is %s", reason == STACKFS_STEER_SKEWED ? "off: the load is skewed" : "on");
}

/* What arrived since the last window: all, and on the busiest CPU. */
static uint64_t arrivals(struct stackfs_page *p, uint64_t *busiest)
{
	uint64_t all = 0;

	*busiest = 0;
	for (uint32_t cpu = 0; cpu < p->slots; cpu++) {
		struct stackfs_slot *slot = page_slot(p, cpu);
		uint64_t n = __atomic_load_n(&slot->arrived, __ATOMIC_RELAXED) -
			     __atomic_load_n(&slot->resv[SLOT_ARRIVED], __ATOMIC_RELAXED);

		all += n;
		if (n > *busiest)
			*busiest = n;
	}
	return all;
}

static void begin_window(struct stackfs_page *p)
{
	for (uint32_t cpu = 0; cpu < p->slots; cpu++) {
		struct stackfs_slot *slot = page_slot(p, cpu);

		__atomic_store_n(&slot->resv[SLOT_ARRIVED], __atomic_load_n(&slot->arrived, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
	}
}

/*
 * Judges the window that has ended. A fair share of the connections is one by
 * the number of workers; more than 1.5 of it on one CPU is skewed, less than
 * 1.2 balanced, and what lies between changes nothing.
 */
static void judge(struct stackfs_page *p)
{
	uint64_t busiest, all = arrivals(p, &busiest);
	uint32_t workers = __atomic_load_n(&p->workers, __ATOMIC_RELAXED);
	uint32_t reason = __atomic_load_n(&p->reason, __ATOMIC_RELAXED);
	uint64_t *skewed = (uint64_t *)&p->resv2[PAGE_SKEWED], *balanced = (uint64_t *)&p->resv2[PAGE_BALANCED];

	if (all < WINDOW_CONNS)
		return;	/* it goes on */
	begin_window(p);
	if (busiest * workers * 2 > all * 3) {
		*balanced = 0;
		if (++*skewed >= SKEWED_WINDOWS && reason == STACKFS_STEER_BALANCED)
			decide(p, STACKFS_STEER_SKEWED);
	} else if (busiest * workers * 5 < all * 6) {
		*skewed = 0;
		if (++*balanced >= BALANCED_WINDOWS && reason == STACKFS_STEER_SKEWED)
			decide(p, STACKFS_STEER_BALANCED);
	}
}

static void look(struct stackfs_page *p)
{
	uint64_t now = coarse_ns();
	__u64 begun = __atomic_load_n(&p->resv2[PAGE_WINDOW], __ATOMIC_RELAXED);

	if (now - begun < WINDOW_NS)
		return;
	/* One of us does it. */
	if (__atomic_compare_exchange_n(&p->resv2[PAGE_WINDOW], &begun, now, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		judge(p);
}

/* Where a connection arrived; -1: not known. */
static int incoming_cpu(int fd)
{
	int cpu = -1;
	socklen_t len = sizeof(cpu);

	return SYS(getsockopt, fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len) < 0 ? -1 : cpu;
}

/* Counts a connection that the worker has accepted, from its clone or not. */
void steer_accepted(struct record *r, struct seat *s, int fd, bool cloned)
{
	struct stackfs_page *p = atomic_load_explicit(&r->page, memory_order_relaxed);
	struct stackfs_slot *slot;
	uint32_t reason;
	int cpu;

	if (s->cpu < 0) {
		add(&p->shared, 1);
		return;
	}
	slot = page_slot(p, s->cpu);
	if (cloned && s->tagged) {
		add(&slot->local, 1);
		add(&slot->arrived, 1);
	} else if (s->sample++ % SAMPLE_EVERY == 0) {
		cpu = incoming_cpu(fd);
		if (cpu >= 0 && (uint32_t)cpu < p->slots)
			add(&page_slot(p, cpu)->arrived, SAMPLE_EVERY);
		add(cpu == s->cpu ? &slot->local : &slot->remote, SAMPLE_EVERY);
	}
	if (s->turn % LOOK_EVERY == 0)
		look(p);
	reason = __atomic_load_n(&p->reason, __ATOMIC_RELAXED);
	if (atomic_load_explicit(&s->clone, memory_order_relaxed) < 0)
		return;
	if (reason == STACKFS_STEER_SKEWED && s->tagged)
		steer_off(r, s);
	else if (reason == STACKFS_STEER_BALANCED && !s->tagged)
		steer_on(r, s);
}
