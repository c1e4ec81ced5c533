// SPDX-License-Identifier: MIT
/*
 * env.c: the defaults as text, for the programs that this one executes.
 *
 *	STACKFS_DEFAULT=FAMILY=PATH[,FAMILY=PATH]...
 *
 * FAMILY is the decimal number of an address family; PATH is absolute, with
 * '%', ',', control characters and space as %XX.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "msocket.h"
#include "shim.h"
#include "sys.h"

/* Calls fn for each entry. A malformed value is -EINVAL. */
int env_parse(const char *value, env_entry_fn *fn, void *arg)
{
	while (*value) {
		size_t len = strcspn(value, ",");
		const char *p = value;
		unsigned int family = 0;
		int ret;

		while (*p >= '0' && *p <= '9' && family < FAMILIES)
			family = family * 10 + (*p++ - '0');
		if (p == value || *p != '=' || family >= FAMILIES)
			return -EINVAL;
		p++;
		ret = fn(arg, family, p, value + len - p);
		if (ret < 0)
			return ret;
		value += len;
		if (*value == ',')
			value++;
	}
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int env_unescape(const char *text, size_t len, char *out, size_t size)
{
	const char *end = text + len;
	size_t n = 0;

	while (text < end) {
		int c = *text++;

		if (c == '%') {
			if (end - text < 2 || hex_digit(text[0]) < 0 ||
			    hex_digit(text[1]) < 0)
				return -EINVAL;
			c = hex_digit(text[0]) << 4 | hex_digit(text[1]);
			text += 2;
		}
		if (!c || n + 1 >= size)
			return -EINVAL;
		out[n++] = c;
	}
	out[n] = '\0';
	return 0;
}

/* Text that is only counted while out is NULL. */
struct text {
	char *out;
	size_t len;
	const struct defaults *over;
};

static void text_add(struct text *t, const char *s, size_t len)
{
	if (t->out)
		memcpy(t->out + t->len, s, len);
	t->len += len;
}

static void text_add_family(struct text *t, int family)
{
	char digits[2] = { '0' + family / 10, '0' + family % 10 };

	if (t->len)
		text_add(t, ",", 1);
	text_add(t, family < 10 ? digits + 1 : digits, family < 10 ? 1 : 2);
	text_add(t, "=", 1);
}

static void text_add_path(struct text *t, const char *path)
{
	static const char hex[] = "0123456789ABCDEF";

	for (; *path; path++) {
		unsigned char c = *path;
		char escaped[3] = { '%', hex[c >> 4], hex[c & 15] };

		if (c == '%' || c == ',' || c <= ' ' || c == 0x7f)
			text_add(t, escaped, 3);
		else
			text_add(t, path, 1);
	}
}

static int text_add_other(void *arg, int family, const char *path, size_t len)
{
	struct text *t = arg;

	if (!t->over->of[family]) {
		text_add_family(t, family);
		text_add(t, path, len);
	}
	return 0;
}

/*
 * Writes the value of STACKFS_DEFAULT and its NUL to out, or nothing if that
 * is NULL, and returns the size. Families without a default keep what the
 * value in under has for them.
 */
size_t env_render(char *out, const struct defaults *d, const char *under)
{
	struct text t = { .out = out, .over = d };

	for (int i = 0; i < FAMILIES; i++) {
		if (!d->of[i])
			continue;
		text_add_family(&t, i);
		text_add_path(&t, d->of[i]->path);
	}
	if (under)
		env_parse(under, text_add_other, &t);
	text_add(&t, "", 1);
	return t.len;
}

/* Is file one of the names in list, which ld.so(8) splits at ':' and ' '? */
static bool preload_has(const char *list, const char *file)
{
	size_t len = strlen(file);

	for (;;) {
		list += strspn(list, ": ");
		if (!*list)
			return false;
		if (strcspn(list, ": ") == len && !strncmp(list, file, len))
			return true;
		list += strcspn(list, ": ");
	}
}

/* As env_render, the value of LD_PRELOAD: self in front of what was there. */
size_t env_preload(char *out, const char *self, const char *old)
{
	struct text t = { .out = out };

	if (!old || !preload_has(old, self)) {
		text_add(&t, self, strlen(self));
		if (old && *old)
			text_add(&t, ":", 1);
	}
	if (old)
		text_add(&t, old, strlen(old));
	text_add(&t, "", 1);
	return t.len;
}

static char self_path[2 * PATH_MAX];
static atomic_bool self_known;

/*
 * The file of this library. NULL if it has no name that LD_PRELOAD can
 * carry or is out of sight, as after chroot(2).
 */
const char *env_self(void)
{
	char buf[sizeof(self_path)] = "";
	size_t len = 0;
	Dl_info info;

	if (!atomic_load(&self_known)) {
		if (!dladdr((void *)env_self, &info) || !info.dli_fname ||
		    strlen(info.dli_fname) >= PATH_MAX)
			return NULL;
		if (info.dli_fname[0] != '/') {
			if (!getcwd(buf, PATH_MAX))
				return NULL;
			len = strlen(buf);
			buf[len++] = '/';
		}
		strcpy(buf + len, info.dli_fname);
		/* Threads that come here together write the same bytes. */
		strcpy(self_path, buf);
		atomic_store(&self_known, true);
	}
	if (strpbrk(self_path, ": ") || SYS(faccessat, AT_FDCWD, self_path, R_OK) < 0)
		return NULL;
	return self_path;
}

/* setenv(3) of a value of which a function gives size and text. */
static int env_set(const char *name, char *value)
{
	int ret = value ? setenv(name, value, 1) : -1;

	free(value);
	return ret < 0 ? -ENOMEM : 0;
}

/*
 * Puts the defaults into this process' environment, for what libc executes
 * by itself (system, popen, wordexp). May allocate: its callers do as well.
 */
int env_publish(const struct defaults *d)
{
	const char *self = env_self();
	const char *old;
	char *value;
	int ret;

	if (!d->any)
		return unsetenv("STACKFS_DEFAULT") < 0 ? -errno : 0;
	if (!self)
		return -EACCES;
	old = getenv("LD_PRELOAD");
	value = malloc(env_preload(NULL, self, old));
	if (value)
		env_preload(value, self, old);
	ret = env_set("LD_PRELOAD", value);
	if (ret < 0)
		return ret;
	value = malloc(env_render(NULL, d, NULL));
	if (value)
		env_render(value, d, NULL);
	return env_set("STACKFS_DEFAULT", value);
}

/* Is that still so? The program may have emptied its environment since. */
bool env_published(void)
{
	const char *preload = getenv("LD_PRELOAD");
	const char *self = env_self();

	return self && preload && preload_has(preload, self) &&
	       getenv("STACKFS_DEFAULT");
}
