/* SPDX-License-Identifier: MIT */
/*
 * sys.h: system calls that return a negated errno. They are made directly:
 * libc's wrappers may be hooked by another guest and some are cancellation
 * points, which could leave a channel taken for ever.
 */
#ifndef _SYS_H
#define _SYS_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#include <asm/socket.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE	71	/* since 5.14 */
#endif

#define SYS(name, ...) ({						\
	int errno_ = errno;						\
	long ret_ = syscall(SYS_##name, __VA_ARGS__);			\
	if (ret_ < 0)							\
		ret_ = -errno;						\
	errno = errno_;							\
	ret_;								\
})

/* Never repeated at EINTR: Linux has closed the descriptor by then. */
static inline void fd_close(int fd)
{
	SYS(close, fd);
}

/* Less than a second, or until a signal. */
static inline void sys_nap(long ns)
{
	struct timespec ts = { .tv_nsec = ns };

	SYS(nanosleep, &ts, NULL);
}

/* An 8-byte option of a socket; 0 if fd is no socket or the kernel too old. */
static inline uint64_t fd_option64(int fd, int option)
{
	uint64_t value = 0;
	socklen_t len = sizeof(value);

	if (SYS(getsockopt, fd, SOL_SOCKET, option, &value, &len) < 0)
		return 0;
	return value;
}

/* Unique for the life of the system, unlike the number. Never 0. */
static inline uint64_t fd_cookie(int fd)
{
	return fd_option64(fd, SO_COOKIE);
}

#endif /* _SYS_H */
