/* three PORT PATH...: one connection to 127.0.0.1 on every stack, all at the
 * same time; prints what the HTTP server of each says. */
#include <arpa/inet.h>
#include <errno.h>
#include <msocket.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fds[16];

	if (argc < 3 || argc > 16)
		return 2;
	sa.sin_port = htons(atoi(argv[1]));
	for (int i = 2; i < argc; i++) {
		fds[i - 2] = msocket(argv[i], AF_INET, SOCK_STREAM, 0);
		if (fds[i - 2] < 0 || connect(fds[i - 2], (void *)&sa, sizeof(sa)) < 0) {
			fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
			return 1;
		}
	}
	for (int i = 0; i < argc - 2; i++) {
		char text[4096];
		size_t n = 0;
		ssize_t got;
		char *body;

		if (write(fds[i], request, strlen(request)) < 0)
			return 1;
		while (n < sizeof(text) - 1 && (got = read(fds[i], text + n, sizeof(text) - 1 - n)) > 0)
			n += got;
		text[n] = 0;
		body = strstr(text, "\r\n\r\n");
		puts(body ? body + 4 : "no answer");
	}
	return 0;
}
