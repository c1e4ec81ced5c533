/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _FASTSOCKET_INTERNAL_H
#define _FASTSOCKET_INTERNAL_H

#include <linux/net.h>
#include <linux/percpu.h>
#include <linux/version.h>
#include <net/sock.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0) || LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
#error "fastsocket is for Linux 6.1 to 6.12: other kernels have other sockets"
#endif

/* What is counted, by the CPU that accepted. */
struct fsk_stats {
	unsigned long local;	/* from the queue of the CPU's own clone */
	unsigned long remote;	/* from a clone, on another CPU than its own */
	unsigned long global;	/* from the queue of the original */
	unsigned long moved;	/* to the original, when a clone was closed */
};

DECLARE_PER_CPU(struct fsk_stats, fsk_stats);

extern int fsk_debug;
extern int fsk_spawn_mode;

#define fsk_dbg(fmt, ...) \
	do { \
		if (fsk_debug > 3) \
			pr_info(fmt, ##__VA_ARGS__); \
	} while (0)

int fsk_sock_accept(struct socket *sock, struct socket *newsock, int flags);
const struct proto_ops *fsk_base_ops(struct socket *sock);

int fsk_spawn(unsigned int fd, int cpu, bool again);
int fsk_spawn_all(void);
int fsk_listen(struct socket *sock, int backlog);
int fsk_shutdown(struct socket *sock, int how);

#endif
