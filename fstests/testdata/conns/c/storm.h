// SPDX-License-Identifier: MIT
/*
 * storm.h: signals at a high rate, each of which is to be handled once.
 *
 * SIGALRM comes from a periodic timer; what comes while another is pending
 * is in the overrun count, so that handlers and overruns together are the
 * expirations. SIGRTMIN is queued by a child with a number that counts, so
 * that one that is lost, doubled or out of order is seen.
 */
#ifndef STORM_H
#define STORM_H

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "exchange.h"

static timer_t storm_timer;
static uint64_t storm_interval, storm_start;
static pid_t storm_child;
static volatile sig_atomic_t handlers; /* how many ran */
static volatile uint64_t expirations, queued, unexpected;

static void on_alarm(int sig)
{
	(void)sig;
	handlers++;
	expirations += 1 + timer_getoverrun(storm_timer);
}

static void on_queued(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	handlers++;
	if ((uint64_t)info->si_int != queued)
		unexpected++;
	queued++;
}

/* Queues numbers until it is killed; waits while the queue is full. */
static void queue_signals(pid_t pid, uint64_t interval_ns)
{
	struct timespec ts = { 0, interval_ns };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0;; nanosleep(&ts, NULL)) {
		if (!sigqueue(pid, SIGRTMIN, (union sigval){ .sival_int = i }))
			i++;
		else if (errno != EAGAIN)
			_exit(1);
	}
}

static void storm_begin(int interval_us)
{
	struct sigaction alarm = { .sa_handler = on_alarm }, rt = { .sa_sigaction = on_queued, .sa_flags = SA_SIGINFO };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	struct itimerspec period = { { 0, interval_us * 1000 }, { 0, interval_us * 1000 } };
	pid_t pid = getpid();

	sigfillset(&alarm.sa_mask); /* they count without being interrupted */
	sigfillset(&rt.sa_mask);
	if (sigaction(SIGALRM, &alarm, NULL) || sigaction(SIGRTMIN, &rt, NULL))
		err(1, "sigaction");
	storm_child = fork();
	if (storm_child == 0)
		queue_signals(pid, interval_us * 1000);
	if (storm_child < 0 || timer_create(CLOCK_MONOTONIC, &event, &storm_timer))
		err(1, "storm");
	storm_interval = interval_us * 1000ull;
	storm_start = now_ns();
	if (timer_settime(storm_timer, 0, &period, NULL))
		err(1, "timer_settime");
}

/* Prints what there was of signals: the timer's expirations by the clock
 * and by the handlers, which may differ by what is under way. */
static void storm_end(void)
{
	struct itimerspec off = { 0 };
	uint64_t took = now_ns() - storm_start;

	if (timer_settime(storm_timer, 0, &off, NULL) || kill(storm_child, SIGKILL))
		err(1, "end of the storm");
	while (waitpid(storm_child, NULL, 0) < 0)
		if (errno != EINTR)
			err(1, "waitpid");
	printf(",\"handlers\":%d,\"expired\":%llu,\"expected\":%llu,\"queued\":%llu,\"unexpected\":%llu",
	       (int)handlers, (unsigned long long)expirations, (unsigned long long)(took / storm_interval),
	       (unsigned long long)queued, (unsigned long long)unexpected);
}

#endif
