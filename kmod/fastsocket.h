/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The requests of /dev/fastsocket, as Fastsocket's module had them.
 *
 * A request returns what the system call of that name would; errors are
 * those of that call.
 */
#ifndef _UAPI_FASTSOCKET_H
#define _UAPI_FASTSOCKET_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct fsocket_arg - the argument of all requests
 * @fd: a descriptor of the caller
 * @backlog: for LISTEN, in connections
 * @op: by request
 *
 * Of the members of @op only accept has another layout for 32-bit callers.
 */
struct fsocket_arg {
	__u32 fd;
	__u32 backlog;
	union {
		struct {
#ifdef __KERNEL__
			void __user *sockaddr;
			int __user *len;
#else
			void *sockaddr; /* may be NULL */
			int *len;
#endif
			__s32 flags; /* SOCK_CLOEXEC, SOCK_NONBLOCK */
		} accept;
		struct {
			__s32 cpu; /* -1: one that no other clone has */
		} spawn;
		struct {
			__u32 family;
			__u32 type;
			__u32 protocol;
		} socket;
		struct {
			__s32 how;
		} shutdown;
		__u64 size[3];
	} op;
};

#define FSOCKET_IOC_SOCKET		_IO(0xf5, 1) /* a new descriptor */
#define FSOCKET_IOC_LISTEN		_IO(0xf5, 2) /* a listener and its clone */
#define FSOCKET_IOC_ACCEPT		_IO(0xf5, 3) /* a new descriptor */
#define FSOCKET_IOC_CLOSE		_IO(0xf5, 4) /* any descriptor */
#define FSOCKET_IOC_SPAWN_LISTEN	_IO(0xf5, 6) /* puts a clone at @fd */
#define FSOCKET_IOC_SHUTDOWN_LISTEN	_IO(0xf5, 7) /* a listener and its clones */
#define FSOCKET_IOC_SPAWN_ALL_LISTEN	_IO(0xf5, 8) /* returns the errors' sum */

#endif
