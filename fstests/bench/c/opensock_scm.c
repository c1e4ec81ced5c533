// SPDX-License-Identifier: MIT
/*
 * opensock_scm.c: the least that a socket from another process can cost: a
 * server process makes it on request and sends it with SCM_RIGHTS.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "bench.h"
#include "stackfs.h"

union control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(sizeof(int))];
};

static void serve(int chan)
{
	struct stackfs_chan_req req;

	while (recv(chan, &req, sizeof(req), 0) == sizeof(req)) {
		struct stackfs_chan_rep rep = { .seq = req.seq };
		struct iovec iov = { &rep, sizeof(rep) };
		union control ctl = { 0 };
		struct msghdr msg = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = &ctl,
			.msg_controllen = sizeof(ctl.buf),
		};
		int fd = socket(req.domain, req.type | SOCK_CLOEXEC, req.protocol);

		if (fd < 0)
			err(1, "socket");
		ctl.align = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(sizeof(fd)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
		};
		memcpy(CMSG_DATA(&ctl.align), &fd, sizeof(fd));
		if (sendmsg(chan, &msg, 0) < 0)
			err(1, "sendmsg");
		close(fd);
	}
}

static void op(void *arg)
{
	int chan = *(int *)arg, fd;
	struct stackfs_chan_req req = {
		.seq = 1,
		.domain = AF_INET,
		.type = SOCK_STREAM | SOCK_CLOEXEC,
	};
	struct stackfs_chan_rep rep;
	struct iovec iov = { &rep, sizeof(rep) };
	union control ctl;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &ctl,
		.msg_controllen = sizeof(ctl.buf),
	};

	if (send(chan, &req, sizeof(req), 0) != sizeof(req))
		err(1, "send");
	if (recvmsg(chan, &msg, MSG_CMSG_CLOEXEC) != sizeof(rep))
		err(1, "recvmsg");
	if (!CMSG_FIRSTHDR(&msg))
		errx(1, "no descriptor in the answer");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	close(fd);
}

int main(int argc, char **argv)
{
	int pair[2];
	pid_t pid;

	want_args(argc, 5, "opensock_scm CPU COUNT SERVER-CPU SERVER-NETNS");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		err(1, "socketpair");
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pair[0]);
		enter_netns(argv[4]);
		pin(argv[3]);
		serve(pair[1]);
		_exit(0);
	}
	close(pair[1]);
	pin(argv[1]);
	measure(op, &pair[0], argv[2]);
	close(pair[0]);
	waitpid(pid, NULL, 0);
	return 0;
}
