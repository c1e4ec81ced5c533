/*
 * A set-uid program as there are many: what it writes to its standard output
 * is up to who calls it. Here: the bytes given as hexadecimal digits.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char buf[4096];
	size_t n = 0;
	unsigned int byte;

	if (argc != 2 || geteuid() != 0)
		return 2;
	for (const char *p = argv[1]; n < sizeof(buf) && sscanf(p, "%2x", &byte) == 1; p += 2)
		buf[n++] = byte;
	return write(1, buf, n) == (ssize_t)n ? 0 : 1;
}
