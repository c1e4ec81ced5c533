// SPDX-License-Identifier: MIT
/*
 * image.c: will this program load us? A static or set-user-ID program under
 * a default stack would land on the host's own without a word, so it is
 * refused. This guards against accidents, not against the program.
 */
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include "shim.h"
#include "sys.h"

/* fs/exec.c: an interpreter of a script of a ... five times, then ELOOP. */
#define SCRIPT_DEPTH	5
#define SCRIPT_LINE	256	/* BINPRM_BUF_SIZE */

/* The header of this library, for its class and machine. From the linker. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

static bool read_at(int fd, void *buf, size_t len, off_t offset)
{
	/* Not pread64: its offset is two arguments on 32-bit machines. */
	return SYS(lseek, fd, offset, SEEK_SET) == offset &&
	       SYS(read, fd, buf, len) == (long)len;
}

static const char *base_name(const char *path)
{
	const char *last = strrchr(path, '/');

	return last ? last + 1 : path;
}

/*
 * The dynamic linker that this process asks for, or NULL. From the program
 * headers that the kernel points to: dl_iterate_phdr takes a lock.
 */
static const char *own_interp(void)
{
	const ElfW(Phdr) *ph = (const void *)getauxval(AT_PHDR);
	size_t n = getauxval(AT_PHNUM);
	uintptr_t bias = 0;

	for (size_t i = 0; ph && i < n; i++) {
		if (ph[i].p_type == PT_PHDR)
			bias = (uintptr_t)ph - ph[i].p_vaddr;
		if (ph[i].p_type == PT_INTERP)
			return (const char *)(bias + ph[i].p_vaddr);
	}
	return NULL;
}

/* Another libc's dynamic linker could not load us, and would not say so. */
static int interp_check(int fd, const ElfW(Phdr) *ph)
{
	const char *own = own_interp();
	char path[PATH_MAX];

	if (ph->p_filesz < 2 || ph->p_filesz > sizeof(path))
		return -ENOEXEC;
	if (!read_at(fd, path, ph->p_filesz, ph->p_offset))
		return -ENOEXEC;
	path[ph->p_filesz - 1] = '\0';
	if (own && strcmp(base_name(own), base_name(path)))
		return -EACCES;
	return 0;
}

static int elf_check(int fd, const ElfW(Ehdr) *eh)
{
	const ElfW(Ehdr) *own = &__ehdr_start;
	ElfW(Phdr) ph;

	/* A 32-bit program has another library path, or none for us. */
	if (eh->e_ident[EI_CLASS] != own->e_ident[EI_CLASS] ||
	    eh->e_ident[EI_DATA] != own->e_ident[EI_DATA] ||
	    eh->e_machine != own->e_machine)
		return -EACCES;
	if (eh->e_phentsize != sizeof(ph))
		return -ENOEXEC;
	for (int i = 0; i < eh->e_phnum; i++) {
		if (!read_at(fd, &ph, sizeof(ph), eh->e_phoff + i * sizeof(ph)))
			return -ENOEXEC;
		if (ph.p_type == PT_INTERP)
			return interp_check(fd, &ph);
	}
	return -EACCES;
}

/* As the kernel decides AT_SECURE, in which ld.so(8) ignores LD_PRELOAD. */
static bool image_is_secure(int fd, const struct stat *st)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	struct statvfs fs;
	bool nosuid;

	nosuid = SYS(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ||
		 (fstatvfs(fd, &fs) == 0 && fs.f_flag & ST_NOSUID);
	if (!nosuid) {
		if (st->st_mode & S_ISUID)
			uid = st->st_uid;
		/* Without group execute, set-group-ID once meant locking. */
		if ((st->st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
			gid = st->st_gid;
		if (getuid() != 0 &&
		    SYS(fgetxattr, fd, "security.capability", NULL, 0) > 0)
			return true;
	}
	return uid != getuid() || gid != getgid();
}

static int path_check(int dirfd, const char *path, int depth);

static int script_check(char *line, int depth)
{
	char *interp = line + strspn(line, " \t");

	interp[strcspn(interp, " \t\n")] = '\0';
	if (!*interp)
		return -ENOEXEC;
	return path_check(AT_FDCWD, interp, depth + 1);
}

static int file_check(int fd, const struct stat *st, int depth)
{
	union {
		ElfW(Ehdr) elf;
		char text[SCRIPT_LINE + 1];
	} head = { .text = "" };
	long n = SYS(read, fd, &head, SCRIPT_LINE);

	if (n < 0)
		return n;
	if (!strncmp(head.text, "#!", 2))
		return script_check(head.text + 2, depth);
	if (n < (long)sizeof(head.elf) || memcmp(head.text, ELFMAG, SELFMAG)) {
		/* A kind of binfmt_misc, or text: then a shell reads it. */
		return st->st_mode & 0111 ? -ENOEXEC : 0;
	}
	if (image_is_secure(fd, st))
		return -EACCES;
	return elf_check(fd, &head.elf);
}

/* What is not there or no regular file, the kernel refuses by itself. */
static int path_check(int dirfd, const char *path, int depth)
{
	struct stat st;
	int fd, ret;

	if (depth > SCRIPT_DEPTH)
		return -ELOOP;
	/* O_PATH first: opening a device may have an effect. */
	fd = SYS(openat, dirfd, path, O_PATH | O_CLOEXEC);
	if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
		return fd;
	if (fd < 0)
		return 0;
	ret = fstat(fd, &st);
	fd_close(fd);
	if (ret < 0 || !S_ISREG(st.st_mode))
		return 0;
	fd = SYS(openat, dirfd, path, O_RDONLY | O_CLOEXEC |
		 O_NONBLOCK | O_LARGEFILE);
	if (fd < 0)	/* may be executed but not read: cannot be vouched for */
		return fd;
	ret = file_check(fd, &st, depth);
	fd_close(fd);
	return ret;
}

/*
 * The program as execveat(2) names it. 0 if it may be executed or fails
 * anyway, -EACCES if it would not load this library.
 */
int image_check(int dirfd, const char *path, int flags)
{
	char proc[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
	int err = errno;
	int ret;

	if (flags & AT_EMPTY_PATH && path && !*path) {
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", dirfd);
		/* Without /proc there is no way to see it. */
		if (SYS(faccessat, AT_FDCWD, proc, F_OK) < 0 &&
		    SYS(fcntl, dirfd, F_GETFD) >= 0)
			return -EACCES;
		path = proc;
	}
	ret = path ? path_check(dirfd, path, 0) : 0;
	errno = err;
	return ret;
}
