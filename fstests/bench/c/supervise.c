// SPDX-License-Identifier: MIT
/*
 * supervise.c: the least that can answer the socket calls of a program by
 * seccomp user notification.
 *
 * two-step: socket, ADDFD, close, SEND. The copy is closed before the caller
 *   goes on: else its own close might not be the last, and a port that it
 *   gave up would still be taken.
 * one-step: with ADDFD_FLAG_SEND, which is not safe against a supervisor
 *   that is interrupted (backends/worker/notify.go).
 * continue: the caller makes the socket itself.
 */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "bench.h"

#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND	(1UL << 1)	/* since 5.14 */
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV	(1UL << 5)	/* since 5.19 */
#endif
/* SECCOMP_IOCTL_NOTIF_SET_FLAGS and its flag, since 6.6; older kernels refuse. */
#define NOTIF_SET_FLAGS	SECCOMP_IOW(4, __u64)
#define SYNC_WAKE_UP	(1UL << 0)

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "which AUDIT_ARCH?"
#endif

static int install_filter(void)
{
	struct sock_filter insns[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(insns) / sizeof(insns[0]), insns };

	/* As "stackfs run" does. */
	return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER,
		       SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW |
		       SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog);
}

static void send_fd(int chan, int fd)
{
	union {
		struct cmsghdr hdr;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl = { .hdr = {
		.cmsg_len = CMSG_LEN(sizeof(fd)),
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
	} };
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &ctl,
		.msg_controllen = sizeof(ctl.buf),
	};

	memcpy(CMSG_DATA(&ctl.hdr), &fd, sizeof(fd));
	if (sendmsg(chan, &msg, 0) != 1)
		err(1, "send the listener");
}

static int recv_fd(int chan)
{
	union {
		struct cmsghdr hdr;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl;
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &ctl,
		.msg_controllen = sizeof(ctl.buf),
	};
	int fd;

	if (recvmsg(chan, &msg, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&msg))
		errx(1, "no listener");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* Gives the caller of req a socket; returns its number there. */
static int give_socket(int listener, const struct seccomp_notif *req, unsigned int flags)
{
	int fd = socket(req->data.args[0], req->data.args[1] | SOCK_CLOEXEC, req->data.args[2]);
	struct seccomp_notif_addfd add = {
		.id = req->id,
		.flags = flags,
		.srcfd = fd,
		.newfd_flags = req->data.args[1] & SOCK_CLOEXEC ? O_CLOEXEC : 0,
	};
	int number;

	if (fd < 0)
		err(1, "socket");
	number = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
	if (number < 0)
		err(1, "SECCOMP_IOCTL_NOTIF_ADDFD");
	close(fd);
	return number;
}

static void supervise(int listener, const char *how)
{
	bool one_step = !strcmp(how, "one-step");
	bool go_on = !strcmp(how, "continue");

	/* Wake the caller on this CPU, if it may run here: both wait in turns. */
	ioctl(listener, NOTIF_SET_FLAGS, SYNC_WAKE_UP);
	for (;;) {
		struct seccomp_notif req = { 0 };
		struct seccomp_notif_resp resp = { 0 };

		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &req))
			return; /* nobody is left under the filter */
		resp.id = req.id;
		if (one_step) {
			give_socket(listener, &req, SECCOMP_ADDFD_FLAG_SEND);
			continue;
		}
		if (go_on)
			resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		else
			resp.val = give_socket(listener, &req, 0);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp))
			err(1, "SECCOMP_IOCTL_NOTIF_SEND");
	}
}

static void run(int chan, char **argv)
{
	int listener = install_filter();

	if (listener < 0)
		err(1, "seccomp");
	send_fd(chan, listener);
	execv(argv[0], argv);
	err(127, "%s", argv[0]);
}

static pid_t fork_child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

int main(int argc, char **argv)
{
	pid_t supervisor, program;
	int pair[2], status;

	if (argc < 5)
		errx(2, "usage: supervise two-step|one-step|continue CPU NETNS PROGRAM ARGUMENT...");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		err(1, "socketpair");
	supervisor = fork_child();
	if (supervisor == 0) {
		enter_netns(argv[3]);
		pin(argv[2]);
		close(pair[1]);
		supervise(recv_fd(pair[0]), argv[1]);
		_exit(0);
	}
	program = fork_child();
	if (program == 0)
		run(pair[1], argv + 4);
	waitpid(program, &status, 0);
	kill(supervisor, SIGKILL);
	waitpid(supervisor, NULL, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
