// SPDX-License-Identifier: MIT
/*
 * first.c: the first socket of a process from a node: open, socketpair,
 * ioctl, receive, and close all. With "version" instead, one ioctl that does
 * nothing, on a node that stays open.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "bench.h"
#include "stackfs.h"

static int open_node(const char *path)
{
	int node = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (node < 0)
		err(1, "%s", path);
	return node;
}

static int receive(int chan)
{
	struct stackfs_chan_rep rep;
	struct iovec iov = { &rep, sizeof(rep) };
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &ctl,
		.msg_controllen = sizeof(ctl.buf),
	};
	int fd;

	if (recvmsg(chan, &msg, MSG_CMSG_CLOEXEC) != sizeof(rep) || rep.error)
		err(1, "recvmsg");
	if (!CMSG_FIRSTHDR(&msg))
		errx(1, "no descriptor in the answer");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static void first(void *arg)
{
	struct stackfs_msocket m = {
		.domain = AF_INET,
		.type = SOCK_STREAM | SOCK_CLOEXEC,
	};
	socklen_t len = sizeof(m.reply_cookie);
	int node = open_node(arg);
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		err(1, "socketpair");
	if (getsockopt(pair[1], SOL_SOCKET, SO_COOKIE, &m.reply_cookie, &len))
		err(1, "SO_COOKIE");
	m.reply_fd = pair[1];
	if (ioctl(node, STACKFS_IOC_MSOCKET, &m))
		err(1, "STACKFS_IOC_MSOCKET");
	if (m.result != STACKFS_RESULT_SENT)
		errx(1, "the daemon says that this stack is our own");
	close(pair[1]);
	close(receive(pair[0]));
	close(pair[0]);
	close(node);
}

static void version(void *arg)
{
	struct stackfs_version v = { 0 };

	if (ioctl(*(int *)arg, STACKFS_IOC_VERSION, &v))
		err(1, "STACKFS_IOC_VERSION");
}

int main(int argc, char **argv)
{
	int node;

	want_args(argc, 5, "first CPU COUNT socket|version NODE");
	pin(argv[1]);
	if (!strcmp(argv[3], "socket")) {
		measure(first, argv[4], argv[2]);
		return 0;
	}
	node = open_node(argv[4]);
	measure(version, &node, argv[2]);
	return 0;
}
