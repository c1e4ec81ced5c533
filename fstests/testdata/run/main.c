#include "probe.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = {
	{"families", do_families}, {"cookie", do_cookie},     {"unix", do_unix},
	{"flags", do_flags},	   {"emfile", do_emfile},     {"alarms", do_alarms},
	{"load", do_load},	   {"fds", do_fds},	      {"args", do_args},
	{"listener", do_listener}, {"foreign", do_foreign},   {"x32", do_x32},
	{"uring", do_uring},	   {"socketcall", do_socketcall}, {"daemon", do_daemon},
};

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	fprintf(stderr, "usage: probe COMMAND [ARGUMENT...]\n");
	return 2;
}
