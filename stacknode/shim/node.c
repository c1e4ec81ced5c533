// SPDX-License-Identifier: MIT
/* node.c: a stack by its path: open it, ask it, close it. */
#include <string.h>
#include <sys/resource.h>

#include "../uapi/stackfs.h"
#include "shim.h"
#include "sys.h"

/* Our descriptors stay out of the way of the program's own low numbers. */
#define CHAN_FD_MIN	500

/* What an error from the node means for msocket(3). */
static int node_error(int err)
{
	switch (-err) {
	case ENOTCONN:		/* open(2) below a mount whose daemon has died */
	case ECONNABORTED:	/* it died while this call waited */
	case ESHUTDOWN:
	case EIO:
		return -ENODEV;
	case ENOTDIR:		/* O_DIRECTORY on anything else */
	case ENOTTY:		/* no ioctls, or not ours */
	case ENOSYS:
		return -ENOTSUP;
	}
	return err;
}

static int node_ioctl(int dir, unsigned long cmd, void *arg)
{
	int ret;

	do {
		ret = SYS(ioctl, dir, cmd, arg);
	} while (ret == -EINTR);
	return ret < 0 ? node_error(ret) : ret;
}

/*
 * O_DIRECTORY fails before a fifo or device is opened, so a wrong path has
 * no side effect. The open is the permission check.
 */
static int node_open(const char *path, bool checked)
{
	struct stackfs_version version = { 0 };
	int dir, ret;

	do {
		dir = SYS(openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY |
			  O_CLOEXEC | O_NONBLOCK);
	} while (dir == -EINTR);
	if (dir < 0)
		return node_error(dir);
	if (checked)
		return dir;
	ret = node_ioctl(dir, STACKFS_IOC_VERSION, &version);
	/* Other file systems have other words for a command they lack. */
	if (ret == -EINVAL || ret == -EPERM || ret == -EACCES)
		ret = -ENOTSUP;
	if (ret >= 0 && version.major != STACKFS_ABI_MAJOR)
		ret = -ENOTSUP;
	if (ret < 0) {
		fd_close(dir);
		return ret;
	}
	return dir;
}

int node_check(const char *path)
{
	int dir = node_open(path, false);

	if (dir < 0)
		return dir;
	fd_close(dir);
	return 0;
}

int node_info(const char *path, struct stackfs_info *info)
{
	int dir = node_open(path, false);
	int ret;

	if (dir < 0)
		return dir;
	memset(info, 0, sizeof(*info));
	ret = node_ioctl(dir, STACKFS_IOC_INFO, info);
	fd_close(dir);
	return ret < 0 ? ret : 0;
}

/* Moves our end to a high number. Returns whether that could be done. */
static bool chan_raise(struct chan *c)
{
	struct rlimit lim = { .rlim_cur = CHAN_FD_MIN };
	int low = c->fd, high, min = CHAN_FD_MIN;

	getrlimit(RLIMIT_NOFILE, &lim);
	if (lim.rlim_cur < 2 * CHAN_FD_MIN)
		min = lim.rlim_cur / 2;
	high = SYS(fcntl, low, F_DUPFD_CLOEXEC, min);
	if (high < 0)
		return false;
	c->fd = high;
	fd_close(low);
	return true;
}

/*
 * Makes of c, which was our end of the pair for the answer, the channel that
 * came with it, if one did.
 */
static void chan_replace(struct chan *c, int fd)
{
	chan_close(c);
	if (fd < 0)
		return;
	c->fd = fd;
	c->cookie = fd_cookie(fd);
	if (!chan_raise(c))
		chan_close(c);
}

/* The daemon serves a user so many calls at a time: wait for another's end. */
#define BUSY_TRIES	200
#define BUSY_WAIT_NS	5000000

/*
 * One STACKFS_IOC_MSOCKET. The pair is made anew for each try: an
 * interrupted call may have taken it.
 */
static int node_msocket(int dir, struct stackfs_msocket *m, struct chan *c)
{
	int busy = 0;
	int ret;

	do {
		ret = chan_pair(c);
		if (ret < 0)
			return ret;
		m->reply_fd = c->give;
		m->reply_cookie = c->give_cookie;
		ret = SYS(ioctl, dir, STACKFS_IOC_MSOCKET, m);
		chan_given(c);
		if (ret < 0)
			chan_close(c);
		if (ret == -EAGAIN)
			sys_nap(BUSY_WAIT_NS);
	} while (ret == -EINTR || (ret == -EAGAIN && ++busy < BUSY_TRIES));
	return ret < 0 ? node_error(ret) : 0;
}

static int node_self(int dir, struct answer *ans)
{
	struct stackfs_info info = { 0 };
	int ret = node_ioctl(dir, STACKFS_IOC_INFO, &info);

	if (ret < 0)
		return ret;
	ans->self_cookie = info.netns_cookie;
	ans->self_families = info.families;
	return 0;
}

/*
 * Asks the node for a socket and, in c, for a channel. Our end of the pair is
 * moved up and the node closed before the socket is taken, so that it gets the
 * lowest free number, as socket(2) promises.
 */
int node_ask(const char *path, bool checked, const struct ask *ask,
	     unsigned int flags, struct chan *c, struct answer *ans)
{
	struct stackfs_msocket m = {
		.domain = ask->domain,
		.type = ask->type,
		.protocol = ask->protocol,
		.flags = flags,
	};
	uint32_t rep_flags = 0;
	int dir, ret, channel;

	ans->sock = -1;
	dir = node_open(path, checked);
	if (dir < 0)
		return dir;
	ret = node_msocket(dir, &m, c);
	if (ret < 0) {
		fd_close(dir);
		return ret;
	}
	if (m.result == STACKFS_RESULT_SELF) {
		chan_close(c);
		ret = flags & STACKFS_MSOCKET_MAKE ? -EPROTO : node_self(dir, ans);
		fd_close(dir);
		return ret;
	}
	chan_raise(c);
	fd_close(dir);
	ret = chan_recv(c->fd, 0, ask->type & SOCK_CLOEXEC, &rep_flags, &channel);
	chan_replace(c, channel);
	if (ret < 0)
		return ret == CHAN_DEAD ? -ENODEV : ret;
	ans->sock = ret;
	return 0;
}
