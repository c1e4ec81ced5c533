// SPDX-License-Identifier: MIT
/* do_bench.c: what a socket costs, our way and with nothing around it. */
#include <sys/wait.h>
#include <time.h>

#include "probe.h"

#pragma weak msocket

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

/* bench N PATH: msocket and close. */
static int do_bench(int argc, char **argv)
{
	int n = argc == 3 ? atoi(argv[1]) : 0;
	double start;

	if (n < 1 || !msocket)
		return 2;
	close(msocket(argv[2], AF_INET, SOCK_STREAM, 0));
	start = now();
	for (int i = 0; i < n; i++)
		close(msocket(argv[2], AF_INET, SOCK_STREAM, 0));
	printf("bench %s: %.0f ns\n", argv[2], (now() - start) / n);
	return 0;
}

/* bench-socket N: socket(2) and close. */
static int do_bench_socket(int argc, char **argv)
{
	int n = argc == 2 ? atoi(argv[1]) : 0;
	double start = now();

	if (n < 1)
		return 2;
	for (int i = 0; i < n; i++)
		close(socket(AF_INET, SOCK_STREAM, 0));
	printf("bench-socket: %.0f ns\n", (now() - start) / n);
	return 0;
}

struct message {
	char body[16];
	struct iovec iov;
	struct msghdr msg;
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl;
};

static void message_init(struct message *m, size_t control)
{
	memset(m, 0, sizeof(*m));
	m->iov = (struct iovec){ m->body, sizeof(m->body) };
	m->msg.msg_iov = &m->iov;
	m->msg.msg_iovlen = 1;
	m->msg.msg_control = &m->ctl;
	m->msg.msg_controllen = control;
}

/* The least a server can do: make the socket, send it, close it. */
static void serve(int end)
{
	struct message m;
	char req[24];

	while (read(end, req, sizeof(req)) == sizeof(req)) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		struct cmsghdr *cmsg;

		message_init(&m, sizeof(m.ctl.buf));
		cmsg = CMSG_FIRSTHDR(&m.msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
		sendmsg(end, &m.msg, 0);
		close(fd);
	}
}

/* bench-scm N: one request, one reply with a socket, with a C server. */
static int do_bench_scm(int argc, char **argv)
{
	int n = argc == 2 ? atoi(argv[1]) : 0;
	char req[24] = { 0 };
	struct message m;
	int pair[2], fd;
	double start;
	pid_t pid;

	if (n < 1 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		return 2;
	pid = fork();
	if (pid == 0) {
		close(pair[0]);
		serve(pair[1]);
		_exit(0);
	}
	close(pair[1]);
	start = now();
	for (int i = 0; i < n; i++) {
		if (write(pair[0], req, sizeof(req)) < 0)
			return 1;
		message_init(&m, sizeof(m.ctl.buf));
		if (recvmsg(pair[0], &m.msg, 0) < 0)
			return 1;
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m.msg)), sizeof(fd));
		close(fd);
	}
	printf("bench-scm: %.0f ns\n", (now() - start) / n);
	close(pair[0]);
	waitpid(pid, NULL, 0);
	return 0;
}

const struct verb bench_verbs[] = {
	{ "bench", do_bench, NULL },
	{ "bench-socket", do_bench_socket, NULL },
	{ "bench-scm", do_bench_scm, NULL },
	{ NULL, NULL, NULL },
};
