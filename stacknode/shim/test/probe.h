/* SPDX-License-Identifier: MIT */
/*
 * probe.h: a program that does what its arguments say and prints what came
 * of it, so that one set of calls can be tried in every situation:
 *
 *	probe default /dev/net/lab 2 , fork , socket 2 1 0
 *
 * The words up to a comma are one command. Some commands (fork, threads)
 * are situations: they run what follows them in it.
 */
#ifndef _PROBE_H
#define _PROBE_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "msocket.h"

/* Runs one command or the rest of the line. Returns an exit status. */
typedef int probe_fn(int argc, char **argv);

struct verb {
	const char *name;
	probe_fn *fn;		/* a command: its words only */
	probe_fn *situation;	/* takes the rest of the line */
};

extern const struct verb socket_verbs[], stat_verbs[], exec_verbs[],
		     fd_verbs[], situation_verbs[], bench_verbs[];

int probe_run(int argc, char **argv);

/* Is this the child of parent-and-child? */
extern bool probe_is_child;

/* Prints "WORDS: ok ..." for a socket or "WORDS: ENOENT". Closes fd. */
void report_socket(int argc, char **argv, int fd);
void report(int argc, char **argv, int ret);

#endif /* _PROBE_H */
