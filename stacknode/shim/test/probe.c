// SPDX-License-Identifier: MIT
/* probe.c: reads the command line of a probe. */
#include "probe.h"

static const struct verb *find(const char *name)
{
	static const struct verb *const all[] = {
		socket_verbs, stat_verbs, exec_verbs, fd_verbs,
		situation_verbs, bench_verbs,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		for (const struct verb *v = all[i]; v->name; v++) {
			if (!strcmp(v->name, name))
				return v;
		}
	}
	return NULL;
}

int probe_run(int argc, char **argv)
{
	while (argc > 0) {
		const struct verb *v = find(argv[0]);
		int words = 0, ret;

		if (!v) {
			fprintf(stderr, "probe: no command %s\n", argv[0]);
			return 2;
		}
		while (words < argc && strcmp(argv[words], ","))
			words++;
		if (v->situation)
			return v->situation(argc, argv);
		ret = v->fn(words, argv);
		fflush(stdout);
		if (ret)
			return ret;
		if (words < argc)
			words++;
		argc -= words;
		argv += words;
	}
	return 0;
}
