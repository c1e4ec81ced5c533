/*
 * hammer MOUNT CLIENTS SECONDS: so many processes ask three stacks for
 * sockets, over channels and by ioctl, and compare where these are.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "stackfs.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static const char *const names[] = { "lab", "solid", "come" };

struct total { long ok, refused, wrong; };
static struct total *total;

static unsigned long long option(int fd, int opt)
{
	unsigned long long v = 0;
	socklen_t len = sizeof(v);

	getsockopt(fd, SOL_SOCKET, opt, &v, &len);
	return v;
}

/* The errors that stackfs.h allows for, when stacks come and go. */
static int documented(int err)
{
	switch (err) {
	case ENOENT: case ENODEV: case ENOTTY: case EACCES: case EMFILE: case EAGAIN: case EINTR: case EPIPE: case ECONNRESET:
		return 1;
	}
	return 0;
}

static int receive(int fd, struct stackfs_chan_rep *rep, int fds[2])
{
	union { struct cmsghdr h; char buf[CMSG_SPACE(2 * sizeof(int))]; } ctl;
	struct iovec iov = { rep, sizeof(*rep) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = sizeof(ctl) };
	struct cmsghdr *c;
	ssize_t n = recvmsg(fd, &msg, 0);

	if (n == 0)
		errno = EPIPE;
	if (n != sizeof(*rep))
		return -1;
	c = CMSG_FIRSTHDR(&msg);
	if (!c)
		return 0;
	memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	return (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
}

static void refused(const char *what, int err)
{
	if (documented(err)) {
		__atomic_fetch_add(&total->refused, 1, __ATOMIC_RELAXED);
		return;
	}
	fprintf(stderr, "%s: %s\n", what, strerror(err));
	__atomic_fetch_add(&total->wrong, 1, __ATOMIC_RELAXED);
}

static void compare(int fd, unsigned long long want)
{
	if (option(fd, SO_NETNS_COOKIE) == want) {
		__atomic_fetch_add(&total->ok, 1, __ATOMIC_RELAXED);
		return;
	}
	fprintf(stderr, "a socket of another stack\n");
	__atomic_fetch_add(&total->wrong, 1, __ATOMIC_RELAXED);
}

static void once(const char *mount, const char *name)
{
	struct stackfs_info info = { 0 };
	struct stackfs_msocket m = { .domain = AF_INET, .type = SOCK_STREAM, .flags = STACKFS_MSOCKET_MAKE };
	struct stackfs_chan_req req = { .seq = 1, .domain = AF_INET, .type = SOCK_STREAM };
	struct stackfs_chan_rep rep;
	int pair[2], fds[2], dir, n;
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", mount, name);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		refused("open", errno);
		return;
	}
	if (ioctl(dir, STACKFS_IOC_INFO, &info)) {
		refused("info", errno);
		close(dir);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		exit(3);
	m.reply_fd = pair[1];
	m.reply_cookie = option(pair[1], SO_COOKIE);
	n = ioctl(dir, STACKFS_IOC_MSOCKET, &m);
	close(pair[1]);
	close(dir);
	if (n) {
		refused("msocket", errno);
		close(pair[0]);
		return;
	}
	n = receive(pair[0], &rep, fds);
	if (n != 2 || rep.error) {
		fprintf(stderr, "answer: %d descriptors, error %d\n", n, rep.error);
		exit(3);
	}
	close(pair[0]);
	compare(fds[0], info.netns_cookie);
	close(fds[0]);
	pair[0] = fds[1];
	for (int i = 0; i < 5; i++) {
		if (send(pair[0], &req, sizeof(req), MSG_NOSIGNAL) < 0) {
			refused("send", errno);
			break;
		}
		n = receive(pair[0], &rep, fds);
		if (n < 0) {
			refused("receive", errno);
			break;
		}
		if (rep.error) {
			refused("channel", rep.error);
			break;
		}
		compare(fds[0], info.netns_cookie);
		close(fds[0]);
	}
	close(pair[0]);
}

int main(int argc, char **argv)
{
	int clients, status, bad = 0;
	time_t end;

	if (argc != 4)
		return 2;
	clients = atoi(argv[2]);
	end = time(NULL) + atoi(argv[3]);
	total = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < clients; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 3;
		if (pid == 0) {
			for (int k = i; time(NULL) < end; k++)
				once(argv[1], names[k % 3]);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		bad |= status;
	printf("%ld sockets, %ld refused, %ld wrong\n", total->ok, total->refused, total->wrong);
	return bad || total->wrong || total->ok < clients ? 1 : 0;
}
