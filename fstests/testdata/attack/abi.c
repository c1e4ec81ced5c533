/* The ABI from C: a socket and a channel, then a further socket. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include "stackfs.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

#define CHECK(x) do { if (!(x)) { perror(#x); return 1; } } while (0)

static int receive(int fd, struct stackfs_chan_rep *rep, int fds[2])
{
	union { struct cmsghdr h; char buf[CMSG_SPACE(2 * sizeof(int))]; } ctl;
	struct iovec iov = { rep, sizeof(*rep) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = sizeof(ctl) };
	struct cmsghdr *c;

	if (recvmsg(fd, &msg, 0) != sizeof(*rep))
		return -1;
	c = CMSG_FIRSTHDR(&msg);
	if (!c)
		return 0;
	memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	return (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
}

int main(int argc, char **argv)
{
	struct stackfs_version version = { 0 };
	struct stackfs_info info = { 0 };
	struct stackfs_msocket m = { .domain = AF_INET, .type = SOCK_STREAM };
	struct stackfs_chan_req req = { .seq = 7, .domain = AF_INET6, .type = SOCK_DGRAM };
	struct stackfs_chan_rep rep;
	unsigned long long cookie = 0;
	socklen_t len = sizeof(cookie);
	int pair[2], fds[2], dir;

	CHECK(argc == 3);
	dir = open(argv[1], O_RDONLY | O_DIRECTORY);
	CHECK(dir >= 0);
	CHECK(ioctl(dir, STACKFS_IOC_VERSION, &version) == 0 && version.major == STACKFS_ABI_MAJOR);
	CHECK(ioctl(dir, STACKFS_IOC_INFO, &info) == 0 && info.netns_cookie == strtoull(argv[2], NULL, 10));
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	CHECK(getsockopt(pair[1], SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0);
	m.reply_fd = pair[1];
	m.reply_cookie = cookie;
	CHECK(ioctl(dir, STACKFS_IOC_MSOCKET, &m) == 0 && m.result == STACKFS_RESULT_SENT);
	CHECK(receive(pair[0], &rep, fds) == 2 && rep.seq == 0 && rep.error == 0);
	len = sizeof(cookie);
	CHECK(getsockopt(fds[0], SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len) == 0 && cookie == info.netns_cookie);
	CHECK(send(fds[1], &req, sizeof(req), 0) == sizeof(req));
	CHECK(receive(fds[1], &rep, fds) == 1 && rep.seq == 7 && rep.error == 0);
	return 0;
}
