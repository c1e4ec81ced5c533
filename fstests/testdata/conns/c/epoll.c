// SPDX-License-Identifier: MIT
/*
 * epoll.c: an exchange with one thread that never blocks but in epoll_wait.
 * The socket is edge triggered: an edge that gets lost stalls it.
 *
 * With alarm=MICROSECONDS signals interrupt it all the time; then only an
 * EINTR without a handler that ran is counted.
 */
#include <sys/epoll.h>

#include "exchange.h"
#include "storm.h"

static struct options opts;
static struct report r;
static int conn, ep;
static bool started, stopped, down; /* told to go, told to stop, shut down */
static uint64_t start;

/* An error of a call before which so many handlers had run. */
static void failed(int handlers_before)
{
	if (errno != EINTR || handlers == handlers_before)
		count_error(&r, errno);
}

static void read_all(void)
{
	static unsigned char buf[65536];

	while (!r.eof && r.nerrors < MAX_ERRORS) {
		int before = handlers;
		ssize_t n = recv(conn, buf, sizeof(buf), 0);

		if (n > 0)
			got(&r, buf, n);
		else if (n == 0)
			r.eof = true;
		else if (errno == EAGAIN)
			return;
		else
			failed(before);
	}
}

/* Sends what is due. Returns how many milliseconds to wait for more, -1 if
 * an edge says so. */
static int write_due(void)
{
	while (started && !stopped && r.nerrors < MAX_ERRORS) {
		int before = handlers;
		ssize_t n;

		if (due(&opts, start, r.sent) > now_ns())
			return 1;
		n = send(conn, out_table + r.sent % PERIOD, message(&opts, r.sent), MSG_NOSIGNAL);
		if (n >= 0)
			r.sent += n;
		else if (errno == EAGAIN)
			return -1;
		else
			failed(before);
		if (n > 0 && !opts.rate)
			return 0; /* read in between */
	}
	if (stopped && !down) {
		down = true;
		if (shutdown(conn, SHUT_WR))
			count_error(&r, errno);
	}
	return -1;
}

static void command(void)
{
	int before = handlers;
	char c;
	ssize_t n = read(0, &c, 1);

	if (n < 0) {
		failed(before);
	} else if (n == 0) {
		stopped = true;
		if (epoll_ctl(ep, EPOLL_CTL_DEL, 0, NULL)) /* level triggered: no more of it */
			count_error(&r, errno);
	} else if (!started) {
		started = true;
		start = now_ns();
		if (opts.alarm)
			storm_begin(opts.alarm);
	}
}

int main(int argc, char **argv)
{
	struct epoll_event input = { .events = EPOLLIN, .data.fd = 0 }, sock = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
	parse_options(&opts, argc, argv);
	fill_tables(&opts);
	conn = open_connection(&opts);
	sock.data.fd = conn;
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (ep < 0 || fcntl(conn, F_SETFL, O_NONBLOCK) || epoll_ctl(ep, EPOLL_CTL_ADD, 0, &input) ||
	    epoll_ctl(ep, EPOLL_CTL_ADD, conn, &sock))
		err(1, "epoll");
	while ((!r.eof || !down) && r.nerrors < MAX_ERRORS) {
		struct epoll_event events[2];
		int before = handlers;
		int n = epoll_wait(ep, events, 2, write_due());

		if (n < 0)
			failed(before);
		for (int i = 0; i < n; i++)
			if (events[i].data.fd == 0)
				command();
		read_all();
	}
	print_report(&r);
	if (opts.alarm)
		storm_end();
	puts("}");
	return 0;
}
