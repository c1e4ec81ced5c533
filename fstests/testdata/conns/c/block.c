// SPDX-License-Identifier: MIT
/* block.c: an exchange with blocking calls, of a thread for each direction. */
#include <pthread.h>

#include "exchange.h"

static struct options opts;
static struct report reports[2]; /* of the reader and of the writer */
static int conn;
static volatile bool stop;

static void *reader(void *arg)
{
	struct report *r = arg;
	static unsigned char buf[65536];

	while (r->nerrors < MAX_ERRORS) {
		ssize_t n = recv(conn, buf, sizeof(buf), 0);

		if (n > 0) {
			got(r, buf, n);
		} else if (n == 0) {
			r->eof = true;
			break;
		} else {
			count_error(r, errno);
		}
	}
	return NULL;
}

/* Sleeps until a time, in nanoseconds. */
static void sleep_until(struct report *r, uint64_t at)
{
	struct timespec ts = { at / 1000000000, at % 1000000000 };
	int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);

	if (error)
		count_error(r, error);
}

static void *writer(void *arg)
{
	struct report *r = arg;
	uint64_t start = now_ns();

	while (!stop && r->nerrors < MAX_ERRORS) {
		uint64_t at = due(&opts, start, r->sent);
		ssize_t n;

		if (at > now_ns() + 1000000)
			sleep_until(r, at);
		n = send(conn, out_table + r->sent % PERIOD, message(&opts, r->sent), MSG_NOSIGNAL);
		if (n < 0)
			count_error(r, errno);
		else
			r->sent += n;
	}
	if (shutdown(conn, SHUT_WR))
		count_error(r, errno);
	return NULL;
}

int main(int argc, char **argv)
{
	struct report *r = &reports[0], *w = &reports[1];
	pthread_t threads[2];
	char c;

	parse_options(&opts, argc, argv);
	fill_tables(&opts);
	conn = open_connection(&opts);
	if (pthread_create(&threads[0], NULL, reader, r))
		errx(1, "pthread_create");
	if (read(0, &c, 1) != 1)
		errx(1, "standard input ended before it said go");
	if (pthread_create(&threads[1], NULL, writer, w))
		errx(1, "pthread_create");
	for (;;) {
		ssize_t n = read(0, &c, 1);

		if (n == 0)
			break;
		if (n < 0)
			count_error(w, errno);
	}
	stop = true;
	pthread_join(threads[1], NULL);
	pthread_join(threads[0], NULL);
	r->sent = w->sent;
	r->eintr += w->eintr;
	for (int i = 0; i < MAX_ERRNO; i++)
		r->errors[i] += w->errors[i];
	print_report(r);
	puts("}");
	return 0;
}
