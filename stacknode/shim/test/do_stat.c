// SPDX-License-Identifier: MIT
/* do_stat.c: every call of the stat family, with the mode it shows. */
#include <fcntl.h>
#include <dlfcn.h>

#include "probe.h"

static void show(int argc, char **argv, int ret, unsigned int mode)
{
	if (ret < 0)
		report(argc, argv, ret);
	else
		printf("%s %s: %06o%s errno=%d\n", argv[0], argv[1], mode & S_IFMT,
		       S_ISSTACK(mode) ? " stack" : "", errno);
}

typedef int xstat_fn(int, const char *, struct stat *);
typedef int fxstatat_fn(int, int, const char *, struct stat *, int);

/* As a program built for an older glibc would. */
static int old_stat(const char *name, const char *path, struct stat *st)
{
	xstat_fn *fn = (xstat_fn *)dlsym(RTLD_DEFAULT, name);

	return fn ? fn(1, path, st) : -1;
}

static int do_stat(int argc, char **argv)
{
	const char *call = argv[0], *path = argc > 1 ? argv[1] : "";
	struct stat64 st64 = { 0 };
	struct stat st = { 0 };
	struct statx stx = { 0 };
	int ret = -1, fd;

	if (argc < 2)
		return 2;
	errno = 0;
	if (!strcmp(call, "stat")) {
		ret = stat(path, &st);
	} else if (!strcmp(call, "lstat")) {
		ret = lstat(path, &st);
	} else if (!strcmp(call, "stat64")) {
		ret = stat64(path, &st64);
		st.st_mode = st64.st_mode;
	} else if (!strcmp(call, "lstat64")) {
		ret = lstat64(path, &st64);
		st.st_mode = st64.st_mode;
	} else if (!strcmp(call, "fstatat64")) {
		ret = fstatat64(AT_FDCWD, path, &st64, 0);
		st.st_mode = st64.st_mode;
	} else if (!strcmp(call, "fstat")) {
		fd = open(path, O_RDONLY | O_DIRECTORY);
		ret = fstat(fd, &st);
		close(fd);
	} else if (!strcmp(call, "fstatat")) {
		/* fstatat DIR NAME */
		fd = open(path, O_RDONLY | O_DIRECTORY);
		ret = fstatat(fd, argv[2], &st, AT_SYMLINK_NOFOLLOW);
		close(fd);
	} else if (!strcmp(call, "statx")) {
		ret = statx(AT_FDCWD, path, 0, STATX_TYPE, &stx);
		st.st_mode = stx.stx_mode;
	} else if (!strcmp(call, "statx-empty")) {
		fd = open(path, O_RDONLY | O_DIRECTORY);
		ret = statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &stx);
		st.st_mode = stx.stx_mode;
		close(fd);
	} else {
		ret = old_stat(call, path, &st);
	}
	show(argc, argv, ret, st.st_mode);
	return 0;
}

const struct verb stat_verbs[] = {
	{ "stat", do_stat, NULL },
	{ "stat64", do_stat, NULL },
	{ "lstat", do_stat, NULL },
	{ "lstat64", do_stat, NULL },
	{ "fstat", do_stat, NULL },
	{ "fstatat", do_stat, NULL },
	{ "fstatat64", do_stat, NULL },
	{ "statx", do_stat, NULL },
	{ "statx-empty", do_stat, NULL },
	{ "__xstat", do_stat, NULL },
	{ "__lxstat", do_stat, NULL },
	{ "__xstat64", do_stat, NULL },
	{ "__lxstat64", do_stat, NULL },
	{ NULL, NULL, NULL },
};
