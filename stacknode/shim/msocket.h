/* SPDX-License-Identifier: MIT */
/* msocket.h: sockets in a chosen network stack. See msocket(3). */
#ifndef _MSOCKET_H
#define _MSOCKET_H

#include <sys/socket.h>
#include <sys/stat.h>

/* The type of a stack as stat(2) shows it under libmsocket. */
#ifndef S_IFSTACK
#define S_IFSTACK	0160000
#endif
#ifndef S_ISSTACK
#define S_ISSTACK(mode)	(((mode) & 0170000) == S_IFSTACK)
#endif

/* As the type of msocket: set the default stack instead of making a socket. */
#ifndef SOCK_DEFAULT
#define SOCK_DEFAULT	0
#endif

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Makes a socket in the stack that path names, or in the default stack of
 * domain when path is NULL. Returns a descriptor, 0 for SOCK_DEFAULT, or -1
 * with errno set.
 */
int msocket(const char *path, int domain, int type, int protocol);

#ifdef __cplusplus
}
#endif

#endif /* _MSOCKET_H */
