/* SPDX-License-Identifier: MIT */
/* bench.h: what all the programs here share: pinning, namespaces, timing. */
#ifndef BENCH_H
#define BENCH_H

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCHES	41

static inline double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

/* Stays on one CPU from here on; "-" may run anywhere. */
static inline void pin(const char *cpu)
{
	cpu_set_t set;

	if (!strcmp(cpu, "-"))
		return;
	CPU_ZERO(&set);
	CPU_SET(atoi(cpu), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "sched_setaffinity %s", cpu);
}

/* Enters the network namespace that is bound to path; "-" stays. */
static inline void enter_netns(const char *path)
{
	int fd;

	if (!strcmp(path, "-"))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		err(1, "%s", path);
	close(fd);
}

static inline int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/*
 * Does op count times, in batches after one to warm up, and prints what one
 * op of the median batch takes in nanoseconds. The median leaves out the
 * batches that something else on the machine interrupted.
 */
static inline void measure_then(void (*op)(void *), void *arg, const char *count,
				void (*after)(void))
{
	int per = atoi(count) / BATCHES;
	double took[BATCHES];

	if (per < 1)
		per = 1;
	for (int i = 0; i < per; i++)
		op(arg);
	after();
	for (int b = 0; b < BATCHES; b++) {
		double start = now_ns();

		for (int i = 0; i < per; i++)
			op(arg);
		took[b] = (now_ns() - start) / per;
		after();
	}
	qsort(took, BATCHES, sizeof(took[0]), compare_doubles);
	printf("%.2f\n", took[BATCHES / 2]);
}

static inline void nothing(void)
{
}

static inline void measure(void (*op)(void *), void *arg, const char *count)
{
	measure_then(op, arg, count, nothing);
}

static inline void want_args(int argc, int want, const char *usage)
{
	if (argc != want)
		errx(2, "usage: %s", usage);
}

#endif /* BENCH_H */
