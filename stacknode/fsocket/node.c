// SPDX-License-Identifier: MIT
/*
 * node.c: asks the stack for clones, and takes them out of the box.
 */
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../shim/sys.h"
#include "fsocket.h"

static int node_open(const char *node)
{
	struct stackfs_version v = {};
	int fd = SYS(openat, AT_FDCWD, node, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	int ret;

	if (fd < 0)
		return fd;
	ret = SYS(ioctl, fd, STACKFS_IOC_VERSION, &v);
	if (!ret && (v.major != STACKFS_ABI_MAJOR || !(v.features & STACKFS_FEATURE_FAST)))
		ret = -EOPNOTSUPP;
	if (ret) {
		fd_close(fd);
		return ret == -ENOTTY ? -EOPNOTSUPP : ret;
	}
	return fd;
}

/* Receives a message of len bytes and up to n descriptors; -1 for the others. */
static int receive(int sock, void *msg, size_t len, int *fds, int n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(2 * sizeof(int))];
	} ctl;
	struct iovec iov = { .iov_base = msg, .iov_len = len };
	struct msghdr hdr = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = CMSG_LEN(n * sizeof(int)),
	};
	struct cmsghdr *c;
	int ret;

	for (int i = 0; i < n; i++)
		fds[i] = -1;
	do {
		ret = SYS(recvmsg, sock, &hdr, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (ret == -EINTR);
	if (ret < 0)
		return ret;
	c = CMSG_FIRSTHDR(&hdr);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		size_t bytes = c->cmsg_len - CMSG_LEN(0);

		memcpy(fds, CMSG_DATA(c), bytes < n * sizeof(int) ? bytes : n * sizeof(int));
	}
	if (ret == 0)
		return -EPIPE;
	return (size_t)ret == len ? 0 : -EPROTO;
}

static struct stackfs_page *map_page(int fd)
{
	struct stackfs_page *p;
	struct stat st;

	if (fstat(fd, &st) || st.st_size < (off_t)sizeof(*p))
		return NULL;
	p = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return NULL;
	if (p->magic != STACKFS_PAGE_MAGIC || p->version != STACKFS_PAGE_VERSION ||
	    (size_t)st.st_size < sizeof(*p) + p->slots * sizeof(struct stackfs_slot)) {
		munmap(p, st.st_size);
		return NULL;
	}
	return p;
}

int node_listen(const char *node, int fd, uint64_t cookie, struct spawned *got)
{
	struct stackfs_listen l = { .listener_fd = fd, .listener_cookie = cookie };
	struct stackfs_chan_rep rep;
	int dir = node_open(node), pair[2], fds[2], ret;

	if (dir < 0)
		return dir;
	ret = SYS(socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
	if (ret) {
		fd_close(dir);
		return ret;
	}
	l.reply_fd = pair[1];
	l.reply_cookie = fd_cookie(pair[1]);
	ret = SYS(ioctl, dir, STACKFS_IOC_LISTEN, &l);
	fd_close(dir);
	fd_close(pair[1]);
	if (!ret)
		ret = receive(pair[0], &rep, sizeof(rep), fds, 2);
	fd_close(pair[0]);
	if (ret)
		return ret;
	if (fds[0] >= 0 && fds[1] >= 0)
		got->page = map_page(fds[1]);
	if (fds[1] >= 0)
		fd_close(fds[1]);
	got->box = fds[0];
	if (fds[0] < 0)
		return -EMFILE;
	if (!got->page) {
		fd_close(fds[0]);
		return -EPROTO;
	}
	return 0;
}

int box_take(int box, uint64_t box_cookie)
{
	static const char more = STACKFS_BOX_MORE;
	struct stackfs_clone c;
	int ret, fd;

	/* The program may have closed our number and opened something there. */
	if (box < 0 || fd_cookie(box) != box_cookie)
		return -EBADF;
	ret = receive(box, &c, sizeof(c), &fd, 1);
	if (ret == -ECONNRESET)	/* the daemon has died, what it sent is there */
		ret = receive(box, &c, sizeof(c), &fd, 1);
	if (ret == -EPIPE)	/* it has died, and nothing is there */
		return -EAGAIN;
	if (ret || fd < 0)
		return ret ? ret : -EMFILE;
	SYS(sendto, box, &more, sizeof(more), MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
	return fd;
}
