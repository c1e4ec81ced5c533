// SPDX-License-Identifier: MIT
/*
 * first.c: the first socket of a process from a node: open, socketpair,
 * ioctl, receive the socket and the channel. As in a process that goes on,
 * they stay open; they are closed after the clock was read. With "version"
 * instead, one ioctl that does nothing, on a node that stays open.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "bench.h"
#include "stackfs.h"

#define KEPT_MAX 4096

static int kept[KEPT_MAX];
static int kept_count;

static void keep(int fd)
{
	if (kept_count == KEPT_MAX)
		errx(1, "more than %d descriptors to keep", KEPT_MAX);
	kept[kept_count++] = fd;
}

static void close_kept(void)
{
	while (kept_count > 0)
		close(kept[--kept_count]);
	usleep(20000);		/* until the daemon has seen it */
}

static int open_node(const char *path)
{
	int node = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (node < 0)
		err(1, "%s", path);
	return node;
}

static void receive(int chan)
{
	struct stackfs_chan_rep rep;
	struct iovec iov = { &rep, sizeof(rep) };
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(2 * sizeof(int))];
	} ctl;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &ctl,
		.msg_controllen = sizeof(ctl.buf),
	};
	int fds[2];

	if (recvmsg(chan, &msg, MSG_CMSG_CLOEXEC) != sizeof(rep) || rep.error)
		err(1, "recvmsg");
	if (!CMSG_FIRSTHDR(&msg) || CMSG_FIRSTHDR(&msg)->cmsg_len != CMSG_LEN(sizeof(fds)))
		errx(1, "no socket and channel in the answer");
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fds));
	keep(fds[0]);
	keep(fds[1]);
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
	receive(pair[0]);
	keep(pair[0]);
	keep(pair[1]);
	keep(node);
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
		measure_then(first, argv[4], argv[2], close_kept);
		return 0;
	}
	node = open_node(argv[4]);
	measure(version, &node, argv[2]);
	return 0;
}
