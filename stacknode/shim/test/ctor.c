// SPDX-License-Identifier: MIT
/* ctor.c: a probe in a library's constructor, which may run before ours. */
#include "probe.h"

/* glibc hands constructors the arguments of main. */
__attribute__((constructor)) static void run(int argc, char **argv)
{
	int ret = probe_run(argc - 1, argv + 1);

	if (ret)
		_exit(ret);
}
