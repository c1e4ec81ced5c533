// SPDX-License-Identifier: MIT
/*
 * carry.c: the defaults go with a program that is executed, whatever
 * environment it is given.
 *
 * All this may run in a child of vfork(2), in the memory of its parent: the
 * new environment lives on the stack.
 */
#include <alloca.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "exec.h"
#include "shim.h"
#include "sys.h"

/* Threads may have small stacks; glibc itself puts argument lists there. */
#define CARRY_ON_STACK	8192

static int exec_real(const struct exec *e, char *const *envp)
{
	int err = errno;
	int ret = 0;

	switch (e->call) {
	case EXEC_VE:
		ret = REAL(execve)(e->path, e->argv, envp);
		break;
	case EXEC_FVE:
		ret = REAL(fexecve)(e->fd, e->argv, envp);
		break;
	case EXEC_VEAT:
		ret = REAL(execveat)(e->fd, e->path, e->argv, envp, e->flags);
		break;
	case EXEC_SPAWN:
		return -REAL(posix_spawn)(e->pid, e->path, e->actions, e->attr,
					  e->argv, envp);
	}
	if (ret < 0)
		ret = -errno;
	errno = err;
	return ret;
}

static int exec_image_check(const struct exec *e)
{
	switch (e->call) {
	case EXEC_FVE:
		return image_check(e->fd, "", AT_EMPTY_PATH);
	case EXEC_VEAT:
		return image_check(e->fd, e->path, e->flags);
	default:
		return image_check(AT_FDCWD, e->path, 0);
	}
}

/* The environment that the program was to get. */
struct environment {
	char *const *vec;
	size_t count;
	const char *preload;		/* values of the variables, or NULL */
	const char *defaults;
	const char *shim;
};

static const char *value_of(const char *entry, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(entry, name, len) && entry[len] == '=' ?
	       entry + len + 1 : NULL;
}

/* The last one counts for ld.so, the first one for getenv. */
static void environment_read(struct environment *env, char *const *vec)
{
	const char *value;

	*env = (struct environment){ .vec = vec };
	for (; vec && *vec; vec++, env->count++) {
		value = value_of(*vec, "LD_PRELOAD");
		if (value)
			env->preload = value;
		value = value_of(*vec, "STACKFS_DEFAULT");
		if (value && !env->defaults)
			env->defaults = value;
		value = value_of(*vec, "STACKFS_SHIM");
		if (value && !env->shim)
			env->shim = value;
	}
}

static bool is_carried(const char *entry)
{
	return value_of(entry, "LD_PRELOAD") ||
	       value_of(entry, "STACKFS_DEFAULT") ||
	       value_of(entry, "STACKFS_RUN");
}

#define PRELOAD_EQ	"LD_PRELOAD="
#define DEFAULT_EQ	"STACKFS_DEFAULT="
#define RUN_EQ		"STACKFS_RUN="

/* Upper bound of what environment_write needs. */
static size_t environment_size(const struct environment *env,
			       const struct defaults *d, const char *self)
{
	const char *run = shim_run_value();

	return (env->count + 4) * sizeof(char *) +
	       sizeof(PRELOAD_EQ) + env_preload(NULL, self, env->preload) +
	       sizeof(DEFAULT_EQ) + env_render(NULL, d, env->defaults) +
	       (run ? sizeof(RUN_EQ) + strlen(run) : 0);
}

static char **environment_write(void *mem, const struct environment *env,
				const struct defaults *d, const char *self)
{
	const char *run = shim_run_value();
	char **vec = mem, **out = vec;
	char *text = (char *)(vec + env->count + 4);

	for (size_t i = 0; i < env->count; i++) {
		if (!is_carried(env->vec[i]))
			*out++ = env->vec[i];
	}
	*out++ = text;
	text = stpcpy(text, PRELOAD_EQ);
	text += env_preload(text, self, env->preload);
	*out++ = text;
	text = stpcpy(text, DEFAULT_EQ);
	text += env_render(text, d, env->defaults);
	if (run) {
		*out++ = text;
		strcpy(stpcpy(text, RUN_EQ), run);
	}
	*out = NULL;
	return vec;
}

static int exec_carry(const struct exec *e, const struct environment *env,
		      const struct defaults *d, const char *self)
{
	size_t size = environment_size(env, d, self);
	void *mem;
	int ret;

	if (size <= CARRY_ON_STACK)
		return exec_real(e, environment_write(alloca(size), env, d, self));
	/* Stays with the parent of a vfork if the child succeeds; rare. */
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return -ENOMEM;
	ret = exec_real(e, environment_write(mem, env, d, self));
	munmap(mem, size);
	return ret;
}

/*
 * Executes with the defaults in the environment, or refuses. Returns a
 * negated errno, or 0 after posix_spawn.
 */
int exec_run(struct exec *e, char *const *envp)
{
	struct environment env;
	struct defaults d;
	const char *self;
	int ret;

	e->refused = false;
	if (!default_snapshot(&d))
		return exec_real(e, envp);
	environment_read(&env, envp);
	if (env.shim && !strcmp(env.shim, "off"))
		return exec_real(e, envp);
	self = env_self();
	if (!default_is_run(&d)) {
		ret = exec_image_check(e);
		if (ret == 0 && !self)
			ret = -EACCES;
		if (ret < 0) {
			e->refused = ret != -ENOEXEC;
			return ret;
		}
	} else if (!self) {
		return exec_real(e, envp);
	}
	return exec_carry(e, &env, &d, self);
}

/*
 * For system(3) and popen(3), in which libc executes /bin/sh out of our
 * sight with the environment of the process: 0 if that is as it should be.
 */
int exec_shell_check(void)
{
	const char *shim = getenv("STACKFS_SHIM");
	struct defaults d;
	int ret = 0;

	if (!default_snapshot(&d) || (shim && !strcmp(shim, "off")))
		return 0;
	if (!default_is_run(&d))
		ret = image_check(AT_FDCWD, "/bin/sh", 0);
	if (ret == 0 && !env_published())
		ret = env_publish(&d) < 0 ? -EACCES : 0;
	return ret;
}
