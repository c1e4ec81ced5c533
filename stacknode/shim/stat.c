// SPDX-License-Identifier: MIT
/*
 * stat.c: a stack node, a directory to the kernel, has the type S_IFSTACK.
 *
 * Only its own path has: with a trailing slash, as ".", or open (fstat, which
 * is not hooked), it stays the directory that one can walk.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "msocket.h"
#include "shim.h"
#include "sys.h"

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC	0x65735546
#endif

#define STACK_XATTR	"user.stackfs.type"

static bool path_ends(const char *path, const char *name)
{
	const char *last = strrchr(path, '/');

	return !strcmp(last ? last + 1 : path, name);
}

/* The xattr first: on file systems without it, that is the cheaper call. */
static bool path_is_stack(const char *path, bool nofollow)
{
	struct statfs fs;
	long ret;

	if (nofollow)
		ret = SYS(lgetxattr, path, STACK_XATTR, NULL, 0);
	else
		ret = SYS(getxattr, path, STACK_XATTR, NULL, 0);
	if (ret < 0)
		return false;
	ret = statfs(path, &fs);
	/* tmpfs takes user.* attributes too, since 6.6. */
	return ret == 0 && fs.f_type == FUSE_SUPER_MAGIC;
}

/* Since 6.13 there is getxattrat(2); /proc does for all. */
static __attribute__((noinline)) bool entry_is_stack(int dirfd, const char *path,
						     bool nofollow)
{
	char buf[PATH_MAX];
	int len = snprintf(buf, sizeof(buf), "/proc/self/fd/%d/%s", dirfd, path);

	return len < (int)sizeof(buf) && path_is_stack(buf, nofollow);
}

/* Is this directory a stack node, named by its own path? */
static bool dir_is_stack(int dirfd, const char *path, unsigned int dev_major,
			 bool nofollow)
{
	int err = errno;
	bool is;

	/* FUSE has no block device below it. */
	if (dev_major != 0 || !path || shim_off())
		return false;
	if (path_ends(path, "") || path_ends(path, ".") || path_ends(path, ".."))
		return false;
	if (dirfd == AT_FDCWD || path[0] == '/')
		is = path_is_stack(path, nofollow);
	else
		is = entry_is_stack(dirfd, path, nofollow);
	errno = err;
	return is;
}

#define STAT_FIX(st, dirfd, path, nofollow) do {			\
	if (S_ISDIR((st)->st_mode) &&					\
	    dir_is_stack(dirfd, path, major((st)->st_dev), nofollow))	\
		(st)->st_mode = ((st)->st_mode & ~S_IFMT) | S_IFSTACK;	\
} while (0)

#define STAT_HOOK(name, type, nofollow)					\
EXPORT int name(const char *path, struct type *st)			\
{									\
	int ret = REAL(name)(path, st);					\
									\
	if (ret == 0)							\
		STAT_FIX(st, AT_FDCWD, path, nofollow);			\
	return ret;							\
}

#define FSTATAT_HOOK(name, type)					\
EXPORT int name(int dirfd, const char *path, struct type *st, int flags) \
{									\
	int ret = REAL(name)(dirfd, path, st, flags);			\
									\
	if (ret == 0)							\
		STAT_FIX(st, dirfd, path, flags & AT_SYMLINK_NOFOLLOW);	\
	return ret;							\
}

STAT_HOOK(stat, stat, false)
STAT_HOOK(stat64, stat64, false)
STAT_HOOK(lstat, stat, true)
STAT_HOOK(lstat64, stat64, true)
FSTATAT_HOOK(fstatat, stat)
FSTATAT_HOOK(fstatat64, stat64)

EXPORT int statx(int dirfd, const char *restrict path, int flags,
		 unsigned int mask, struct statx *restrict stx)
{
	int ret = REAL(statx)(dirfd, path, flags, mask, stx);

	if (ret == 0 && stx->stx_mask & STATX_TYPE && S_ISDIR(stx->stx_mode) &&
	    dir_is_stack(dirfd, path, stx->stx_dev_major,
			 flags & AT_SYMLINK_NOFOLLOW))
		stx->stx_mode = (stx->stx_mode & ~S_IFMT) | S_IFSTACK;
	return ret;
}

/*
 * Programs built for glibc before 2.33 call these instead, with the version
 * of the structure in front. Only one version per architecture is in use.
 */
#define XSTAT_HOOK(name, type, nofollow)				\
int name(int ver, const char *path, struct type *st);			\
EXPORT int name(int ver, const char *path, struct type *st)		\
{									\
	int ret = REAL(name)(ver, path, st);				\
									\
	if (ret == 0)							\
		STAT_FIX(st, AT_FDCWD, path, nofollow);			\
	return ret;							\
}

#define FXSTATAT_HOOK(name, type)					\
int name(int ver, int dirfd, const char *path, struct type *st, int flags); \
EXPORT int name(int ver, int dirfd, const char *path, struct type *st, int flags) \
{									\
	int ret = REAL(name)(ver, dirfd, path, st, flags);		\
									\
	if (ret == 0)							\
		STAT_FIX(st, dirfd, path, flags & AT_SYMLINK_NOFOLLOW);	\
	return ret;							\
}

XSTAT_HOOK(__xstat, stat, false)
XSTAT_HOOK(__xstat64, stat64, false)
XSTAT_HOOK(__lxstat, stat, true)
XSTAT_HOOK(__lxstat64, stat64, true)
FXSTATAT_HOOK(__fxstatat, stat)
FXSTATAT_HOOK(__fxstatat64, stat64)
