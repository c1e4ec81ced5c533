// SPDX-License-Identifier: MIT
/* main.c: a probe as a program of its own. */
#include "probe.h"

int main(int argc, char **argv)
{
	return probe_run(argc - 1, argv + 1);
}
