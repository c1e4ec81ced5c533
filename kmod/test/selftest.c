// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of /dev/fastsocket, to be run as root in a guest of its own: it is
 * the only user of the module. Prints a line for each test and a count.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../fastsocket.h"

static int dev, failed, passed;
static bool bad; /* the test that runs has failed */

#define CHECK(cond, ...) \
	do { \
		if (!(cond)) { \
			bad = true; \
			printf("# %s:%d: %s: ", __func__, __LINE__, #cond); \
			printf(__VA_ARGS__); \
			printf(" (errno %d: %s)\n", errno, strerror(errno)); \
		} \
	} while (0)

static int request(unsigned long cmd, struct fsocket_arg *arg)
{
	return ioctl(dev, cmd, arg);
}

static int fs_socket(int family, int type, int protocol)
{
	struct fsocket_arg arg = { 0 };

	arg.op.socket.family = family;
	arg.op.socket.type = type;
	arg.op.socket.protocol = protocol;
	return request(FSOCKET_IOC_SOCKET, &arg);
}

static int fs_listen(int fd, int backlog)
{
	struct fsocket_arg arg = { .fd = fd, .backlog = backlog };

	return request(FSOCKET_IOC_LISTEN, &arg);
}

static int fs_accept(int fd, void *sa, int *len, int flags)
{
	struct fsocket_arg arg = { .fd = fd };

	arg.op.accept.sockaddr = sa;
	arg.op.accept.len = len;
	arg.op.accept.flags = flags;
	return request(FSOCKET_IOC_ACCEPT, &arg);
}

static int fs_close(int fd)
{
	struct fsocket_arg arg = { .fd = fd };

	return request(FSOCKET_IOC_CLOSE, &arg);
}

static int fs_spawn(int fd, int cpu)
{
	struct fsocket_arg arg = { .fd = fd };

	arg.op.spawn.cpu = cpu;
	return request(FSOCKET_IOC_SPAWN_LISTEN, &arg);
}

static int fs_spawn_all(void)
{
	struct fsocket_arg arg = { 0 };

	return request(FSOCKET_IOC_SPAWN_ALL_LISTEN, &arg);
}

static int fs_shutdown(int fd, int how)
{
	struct fsocket_arg arg = { .fd = fd };

	arg.op.shutdown.how = how;
	return request(FSOCKET_IOC_SHUTDOWN_LISTEN, &arg);
}

static void bind_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (cpu >= 0)
		CPU_SET(cpu, &set);
	else
		memset(&set, 0xff, sizeof(set));
	sched_setaffinity(0, sizeof(set), &set);
}

static int cpus(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN);
}

static socklen_t address(int family, int port, struct sockaddr_storage *ss)
{
	struct sockaddr_in *in = (void *)ss;
	struct sockaddr_in6 *in6 = (void *)ss;

	memset(ss, 0, sizeof(*ss));
	ss->ss_family = family;
	if (family == AF_INET) {
		in->sin_port = htons(port);
		in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(*in);
	}
	in6->sin6_port = htons(port);
	in6->sin6_addr = in6addr_loopback;
	return sizeof(*in6);
}

/* A listener, by the device; flags: SOCK_NONBLOCK or 0. */
static int listener(int family, int port, int flags)
{
	struct sockaddr_storage ss;
	socklen_t len = address(family, port, &ss);
	int on = 1, fd = fs_socket(family, SOCK_STREAM | flags, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (void *)&ss, len) || fs_listen(fd, 512)) {
		CHECK(!"listener", "port %d", port);
		exit(1);
	}
	return fd;
}

static int dial(int family, int port)
{
	struct sockaddr_storage ss;
	socklen_t len = address(family, port, &ss);
	struct timeval tv = { .tv_sec = 20 };
	struct linger reset = { .l_onoff = 1 };
	int fd = socket(family, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (connect(fd, (void *)&ss, len)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void wait_for(int listener)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };

	poll(&p, 1, 10000);
}

/* Who answered: the CPU that a worker was on when it accepted, or -1. */
static int ask(int family, int port)
{
	int fd = dial(family, port);
	char cpu = -1;

	if (fd < 0)
		return -1;
	if (read(fd, &cpu, 1) != 1)
		cpu = -1;
	close(fd);
	return cpu;
}

static void answer(int conn)
{
	char cpu = sched_getcpu();

	/* The other end may be gone. */
	if (write(conn, &cpu, 1) != 1 && errno != EPIPE && errno != ECONNRESET)
		_exit(3);
	close(conn);
}

enum how { BY_EPOLL, BY_POLL, BY_BLOCK, BY_ACCEPT4 };

/* A worker as the library makes it: after fork, clones of all listeners. */
static pid_t worker(int fd, enum how how)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int ready[2], ep;
	pid_t pid;
	char c = 0;

	if (pipe(ready))
		exit(1);
	pid = fork();
	if (pid) {
		close(ready[1]);
		if (read(ready[0], &c, 1) != 1)
			CHECK(!"ready", "worker");
		close(ready[0]);
		return pid;
	}
	signal(SIGPIPE, SIG_IGN);
	fs_spawn_all();
	ep = epoll_create1(0);
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	if (write(ready[1], &c, 1) != 1)
		_exit(1);
	close(ready[1]);
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int conn;

		if (how == BY_EPOLL)
			epoll_wait(ep, &ev, 1, -1);
		else if (how == BY_POLL)
			poll(&p, 1, -1);
		conn = how == BY_ACCEPT4 ? accept4(fd, NULL, NULL, SOCK_CLOEXEC) : fs_accept(fd, NULL, NULL, SOCK_CLOEXEC);
		if (conn >= 0)
			answer(conn);
		else if (errno != EAGAIN)
			_exit(errno == EINVAL ? 0 : 2);
	}
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static long scaled(long n)
{
	const char *s = getenv("STACKFS_SCALE");
	double scale = s ? atof(s) : 1;

	return scale > 0 && n / scale >= 1 ? n / scale : n;
}

/* Each kind of bad argument, for each request. */
static void test_bad_arguments(void)
{
	static const unsigned long cmds[] = { FSOCKET_IOC_LISTEN, FSOCKET_IOC_ACCEPT, FSOCKET_IOC_CLOSE,
		FSOCKET_IOC_SPAWN_LISTEN, FSOCKET_IOC_SHUTDOWN_LISTEN };
	int file = open("/dev/null", O_RDONLY), udp = socket(AF_INET, SOCK_DGRAM, 0);
	int plain = socket(AF_INET, SOCK_STREAM, 0), l = listener(AF_INET, 7000, SOCK_NONBLOCK);
	int un = socket(AF_UNIX, SOCK_STREAM, 0), len = sizeof(struct sockaddr_in);
	struct fsocket_arg arg;
	unsigned int i;

	for (i = 0; i < sizeof(cmds) / sizeof(*cmds); i++) {
		static const unsigned int fds[] = { -1, 999, 0x7fffffff };
		unsigned int j;

		for (j = 0; j < 3; j++) {
			memset(&arg, 0, sizeof(arg));
			arg.fd = fds[j];
			CHECK(request(cmds[i], &arg) == -1 && errno == EBADF, "request %lx of fd %u", cmds[i], fds[j]);
		}
		CHECK(ioctl(dev, cmds[i], NULL) == -1 && errno == EFAULT, "request %lx", cmds[i]);
		CHECK(ioctl(dev, cmds[i], (void *)-4096L) == -1 && errno == EFAULT, "request %lx", cmds[i]);
		if (cmds[i] == FSOCKET_IOC_CLOSE)
			continue;
		arg.fd = file;
		CHECK(request(cmds[i], &arg) == -1 && errno == ENOTSOCK, "request %lx of a file", cmds[i]);
	}
	CHECK(fs_spawn(udp, 0) == -1 && errno == EINVAL, "UDP");
	CHECK(fs_spawn(un, 0) == -1 && errno == EINVAL, "UNIX");
	CHECK(fs_spawn(plain, 0) == -1 && errno == EINVAL, "not a listener");
	CHECK(fs_spawn(l, 4000) == -1 && errno == EINVAL, "CPU 4000");
	CHECK(fs_socket(AF_INET, SOCK_STREAM | 0x40000000, 0) == -1 && errno == EINVAL, "flags");
	CHECK(fs_socket(99, SOCK_STREAM, 0) == -1 && errno == EAFNOSUPPORT, "family");
	CHECK(fs_accept(l, NULL, NULL, 0x100) == -1 && errno == EINVAL, "flags");
	CHECK(fs_accept(l, NULL, NULL, 0) == -1 && errno == EAGAIN, "empty");
	CHECK(fs_accept(udp, NULL, NULL, 0) == -1 && errno == EOPNOTSUPP, "UDP");
	CHECK(ioctl(dev, _IO(0xf5, 5), &arg) == -1 && errno == EINVAL, "request 5");
	CHECK(ioctl(dev, _IO(0xf4, 1), &arg) == -1 && errno == ENOTTY, "another device's");
	i = dial(AF_INET, 7000);
	wait_for(l);
	CHECK(fs_accept(l, (void *)-4096L, &len, 0) == -1 && errno == EFAULT, "sockaddr");
	close(i);
	CHECK(fs_close(file) == 0 && fcntl(file, F_GETFD) == -1, "close");
	CHECK(fs_close(file) == -1 && errno == EBADF, "closed twice");
	close(l);
	close(udp);
	close(un);
	close(plain);
}

static void test_sockets_and_accept(void)
{
	static const int families[] = { AF_INET, AF_INET6 };
	unsigned int i;

	for (i = 0; i < 2; i++) {
		struct sockaddr_storage peer, own;
		int len = sizeof(peer), l = listener(families[i], 7010, SOCK_NONBLOCK);
		socklen_t olen = sizeof(own);
		int c = dial(families[i], 7010), a;

		wait_for(l);
		a = fs_accept(l, &peer, &len, SOCK_CLOEXEC);
		CHECK(a >= 0, "accept");
		getsockname(c, (void *)&own, &olen);
		CHECK((int)olen == len && !memcmp(&own, &peer, len), "peer of %d bytes", len);
		CHECK(fcntl(a, F_GETFD) & FD_CLOEXEC, "CLOEXEC");
		CHECK(fcntl(a, F_GETFL) & O_NONBLOCK, "as the listener");
		close(a);
		close(c);
		close(l);
	}
}

/* With a worker for each CPU: who accepts is where the connection came from. */
static void pick(int family, enum how how, int flags)
{
	int n = cpus(), l = listener(family, 7020, flags), i, cpu;
	pid_t pids[64];

	for (i = 0; i < n; i++)
		pids[i] = worker(l, how);
	for (cpu = 0; cpu < n; cpu++) {
		int wrong = 0;

		bind_cpu(cpu);
		for (i = 0; i < 40; i++)
			wrong += ask(family, 7020) != cpu;
		CHECK(!wrong, "CPU %d: %d of 40 elsewhere", cpu, wrong);
	}
	bind_cpu(-1);
	for (i = 0; i < n; i++)
		end(pids[i]);
	close(l);
}

static void test_pick_epoll(void) { pick(AF_INET, BY_EPOLL, SOCK_NONBLOCK); }
static void test_pick_poll(void) { pick(AF_INET, BY_POLL, SOCK_NONBLOCK); }
static void test_pick_blocking(void) { pick(AF_INET, BY_BLOCK, 0); }
static void test_pick_plain_accept(void) { pick(AF_INET, BY_ACCEPT4, 0); }
static void test_pick_inet6(void) { pick(AF_INET6, BY_EPOLL, SOCK_NONBLOCK); }

/* One worker must serve what comes in on all CPUs, by each way to wait. */
static void test_fewer_workers(void)
{
	static const enum how ways[] = { BY_EPOLL, BY_POLL, BY_BLOCK, BY_ACCEPT4 };
	unsigned int w;

	for (w = 0; w < 4; w++) {
		int l = listener(AF_INET, 7030, w < 2 ? SOCK_NONBLOCK : 0), cpu, i, lost = 0;
		pid_t pid = worker(l, ways[w]);

		for (cpu = 0; cpu < cpus(); cpu++) {
			bind_cpu(cpu);
			for (i = 0; i < 20; i++)
				lost += ask(AF_INET, 7030) < 0;
		}
		bind_cpu(-1);
		CHECK(!lost, "way %u: %d lost", w, lost);
		end(pid);
		close(l);
	}
}

static void test_more_workers(void)
{
	int n = cpus() + 3, l = listener(AF_INET, 7040, SOCK_NONBLOCK), i, lost = 0;
	pid_t pids[64];

	for (i = 0; i < n; i++)
		pids[i] = worker(l, BY_EPOLL);
	for (i = 0; i < 200; i++)
		lost += ask(AF_INET, 7040) < 0;
	CHECK(!lost, "%d lost", lost);
	for (i = 0; i < n; i++)
		end(pids[i]);
	close(l);
}

/* What is in the queue of a worker that dies is served by others. */
static void test_queue_of_the_dead(void)
{
	int l = listener(AF_INET, 7050, SOCK_NONBLOCK), cpu = 0, i, lost = 0, conns[200];
	pid_t first, second;
	char c;

	first = worker(l, BY_EPOLL); /* CPU 0 */
	second = worker(l, BY_EPOLL);
	kill(first, SIGSTOP);
	kill(second, SIGSTOP);
	bind_cpu(cpu);
	for (i = 0; i < 200; i++)
		conns[i] = dial(AF_INET, 7050);
	bind_cpu(-1);
	end(first);
	kill(second, SIGCONT);
	for (i = 0; i < 200; i++) {
		lost += conns[i] < 0 || read(conns[i], &c, 1) != 1;
		close(conns[i]);
	}
	CHECK(!lost, "%d of 200 lost", lost);
	first = worker(l, BY_EPOLL); /* in place of it */
	bind_cpu(0);
	for (i = 0; i < 20; i++)
		lost += ask(AF_INET, 7050) != 0;
	bind_cpu(-1);
	CHECK(!lost, "%d of 20 not on the CPU of the new worker", lost);
	end(first);
	end(second);
	close(l);
}

static void test_shutdown_and_backlog(void)
{
	int l = listener(AF_INET, 7060, SOCK_NONBLOCK), clone = dup(l);
	struct pollfd p = { .events = POLLIN };

	CHECK(fs_spawn(clone, 0) == 0, "spawn");
	CHECK(fs_spawn(clone, 0) == -1 && errno == EEXIST, "again");
	CHECK(fs_listen(clone, 17) == 0, "another backlog");
	CHECK(listen(clone, 16) == 0, "another backlog, by listen()");
	CHECK(fs_shutdown(clone, SHUT_RDWR) == 0, "shutdown");
	CHECK(dial(AF_INET, 7060) == -1, "there is no listener");
	p.fd = clone;
	CHECK(poll(&p, 1, 0) == 1, "poll");
	CHECK(fs_accept(clone, NULL, NULL, 0) == -1 && errno == EINVAL, "accept");
	CHECK(fs_accept(l, NULL, NULL, 0) == -1 && errno == EINVAL, "accept of the original");
	bind_cpu(-1);
	close(l);
	close(clone);
	/* The port is free at once. */
	l = listener(AF_INET, 7060, 0);
	close(l);
}

static void test_options(void)
{
	static const struct { int level, name, value; } options[] = {
		{ SOL_SOCKET, SO_KEEPALIVE, 1 }, { SOL_SOCKET, SO_MARK, 77 }, { SOL_SOCKET, SO_RCVLOWAT, 9 },
		{ IPPROTO_IP, 1 /* IP_TOS */, 0x10 }, { IPPROTO_IP, 2 /* IP_TTL */, 33 },
		{ IPPROTO_IP, 15 /* IP_FREEBIND */, 1 }, { IPPROTO_TCP, 1 /* NODELAY */, 1 },
		{ IPPROTO_TCP, 2 /* MAXSEG */, 900 }, { IPPROTO_TCP, 4 /* KEEPIDLE */, 44 },
		{ IPPROTO_TCP, 9 /* DEFER_ACCEPT */, 3 }, { IPPROTO_TCP, 18 /* USER_TIMEOUT */, 5000 },
	};
	int l = fs_socket(AF_INET, SOCK_STREAM, 0), clone, want, got;
	struct sockaddr_storage ss;
	socklen_t len = address(AF_INET, 7070, &ss), vlen;
	unsigned int i;

	for (i = 0; i < sizeof(options) / sizeof(*options); i++)
		CHECK(!setsockopt(l, options[i].level, options[i].name, &options[i].value, 4), "option %u", i);
	CHECK(!bind(l, (void *)&ss, len) && !fs_listen(l, 5), "listen");
	clone = dup(l);
	CHECK(!fs_spawn(clone, 0), "spawn");
	for (i = 0; i < sizeof(options) / sizeof(*options); i++) {
		want = got = -1;
		vlen = 4;
		getsockopt(l, options[i].level, options[i].name, &want, &vlen);
		getsockopt(clone, options[i].level, options[i].name, &got, &vlen);
		CHECK(want == got, "option %u: %d, want %d", i, got, want);
	}
	bind_cpu(-1);
	close(l);
	close(clone);
}

/* A second start on the same port fails, as it does without the device. */
static void test_address_in_use(void)
{
	int l = listener(AF_INET, 7080, SOCK_NONBLOCK), other = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_storage ss;
	socklen_t len = address(AF_INET, 7080, &ss);
	pid_t pid = worker(l, BY_EPOLL);

	CHECK(bind(other, (void *)&ss, len) == -1 && errno == EADDRINUSE, "bind");
	end(pid);
	close(l);
	close(other);
}

/* No order of requests gives a user a port that it may not have. */
static void test_privileged_ports(void)
{
	int l = listener(AF_INET, 80, SOCK_NONBLOCK), high = listener(AF_INET, 7090, SOCK_NONBLOCK), status;
	pid_t pid = fork();

	if (pid == 0) {
		struct sockaddr_storage low, any = { .ss_family = AF_UNSPEC };
		socklen_t len = address(AF_INET, 81, &low);
		int own;

		bad = false;
		if (setgid(65534) || setuid(65534))
			_exit(2);
		own = open("/dev/fastsocket", O_RDONLY);
		CHECK(own >= 0, "a user opens the device");
		/* A listener that was passed: its address, and no other. */
		CHECK(!fs_spawn_all(), "clones");
		CHECK(fs_listen(l, 8) == 0, "listen");
		CHECK(!shutdown(high, SHUT_RDWR), "shutdown");
		connect(high, (void *)&any, sizeof(any));
		CHECK(bind(high, (void *)&low, len) == -1, "a clone is bound to port 81");
		CHECK(fs_spawn(high, 0) == -1, "spawn of what does not listen");
		own = fs_socket(AF_INET, SOCK_STREAM, 0);
		CHECK(bind(own, (void *)&low, len) == -1 && errno == EACCES, "a socket of its own");
		CHECK(bind(socket(AF_INET, SOCK_STREAM, 0), (void *)&low, len) == -1 && errno == EACCES, "credentials are left behind");
		_exit(bad);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "the user's part: %x", status);
	close(l);
	close(high);
}

/* The requests are no way around a filter of system calls. */
static void test_seccomp(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog prog = { .len = 1, .filter = &allow };
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
			_exit(2);
		_exit(open("/dev/fastsocket", O_RDONLY) != -1 || errno != EPERM);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "status %x", status);
}

static void test_close_itself(void)
{
	int own = open("/dev/fastsocket", O_RDONLY);
	struct fsocket_arg arg = { .fd = own };

	CHECK(!ioctl(own, FSOCKET_IOC_CLOSE, &arg), "the device by itself");
	CHECK(fcntl(own, F_GETFD) == -1 && errno == EBADF, "it is closed");
}

/* The struct of 32-bit programs, by the system calls of those. */
static long int80(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

static void test_32_bit(void)
{
	struct { unsigned int fd, backlog, op[5]; } *arg;
	int l = listener(AF_INET, 7100, SOCK_NONBLOCK), c = dial(AF_INET, 7100), fd;
	struct sockaddr_in *peer;
	int *len;

	arg = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	peer = (void *)(arg + 1);
	len = (void *)(peer + 1);
	*len = sizeof(*peer);
	wait_for(l);
	arg->fd = l;
	arg->op[0] = (unsigned long)peer;
	arg->op[1] = (unsigned long)len;
	arg->op[2] = SOCK_CLOEXEC;
	fd = int80(54, dev, FSOCKET_IOC_ACCEPT, (long)arg); /* ioctl */
	CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC, "accept: %d", fd);
	CHECK(peer->sin_family == AF_INET && *len == sizeof(*peer), "peer: family %d, %d bytes", peer->sin_family, *len);
	close(fd);
	arg->op[0] = AF_INET;
	arg->op[1] = SOCK_STREAM;
	arg->op[2] = 0;
	fd = int80(54, dev, FSOCKET_IOC_SOCKET, (long)arg);
	CHECK(fd >= 0, "socket: %d", fd);
	close(fd);
	close(c);
	close(l);
}

static void *spawner(void *p)
{
	int i, l = *(int *)p;

	for (i = 0; i < 200; i++) {
		int fd = dup(l);

		fs_spawn(fd, i % cpus());
		fs_close(fd);
	}
	return NULL;
}

/* Spawn against close, fork storms, exit while accepting. */
static void test_races(void)
{
	int l = listener(AF_INET, 7110, SOCK_NONBLOCK), round, i, shared = dup(l);
	pthread_t threads[4];

	for (i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, spawner, i % 2 ? &l : &shared);
	for (i = 0; i < 300; i++) {
		fs_spawn(shared, 0);
		dup2(l, shared);
		close(dial(AF_INET, 7110));
	}
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	bind_cpu(-1);
	for (round = 0; round < 6; round++) {
		pid_t pids[16];

		for (i = 0; i < 16; i++)
			pids[i] = worker(l, i % 2 ? BY_EPOLL : BY_POLL);
		for (i = 0; i < 20; i++)
			ask(AF_INET, 7110);
		for (i = 0; i < 16; i++)
			end(pids[i]);
	}
	close(shared);
	close(l);
}

static long in_use(const char *what)
{
	char line[256];
	long n = -1;
	FILE *f = fopen("/proc/net/sockstat", "r");

	while (f && fgets(line, sizeof(line), f)) {
		char *at = strstr(line, what);

		if (at && !strncmp(line, "TCP:", 4))
			n = atol(at + strlen(what));
	}
	if (f)
		fclose(f);
	return n;
}

/* 100,000 connections, by scale, leave nothing. */
static void test_storm(void)
{
	long total = scaled(100000), lost = 0, i, before = in_use("alloc "), after;
	int l = listener(AF_INET, 7120, SOCK_NONBLOCK), n = cpus();
	pid_t pids[64], killer;

	for (i = 0; i < n; i++)
		pids[i] = worker(l, BY_EPOLL);
	for (i = 0; i < total; i++) {
		if (i % 16 == 0)
			bind_cpu(i / 16 % n);
		lost += ask(AF_INET, 7120) < 0;
	}
	bind_cpu(-1);
	CHECK(!lost, "%ld of %ld lost", lost, total);
	/* A worker is killed and replaced all the time: nothing waits for ever. */
	killer = fork();
	if (!killer) {
		setpgid(0, 0);
		for (i = 0;; i++) {
			end(pids[i % n]);
			pids[i % n] = worker(l, BY_EPOLL);
			usleep(20000);
		}
	}
	for (i = 0; i < total / 10; i++)
		close(dial(AF_INET, 7120));
	kill(-killer, SIGKILL); /* and the workers that it made */
	waitpid(killer, NULL, 0);
	for (i = 0; i < n; i++)
		end(pids[i]);
	close(l);
	printf("# %ld connections, lost %ld\n", total, lost);
	sleep(1);
	after = in_use("alloc ");
	CHECK(after <= before + 8, "%ld TCP sockets, before %ld", after, before);
}

/* A server that knows of no device, with a worker for each CPU. */
static int serve(int port)
{
	int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), i;
	struct epoll_event ev = { .events = EPOLLIN };
	struct sockaddr_storage ss;
	socklen_t len = address(AF_INET, port, &ss);

	if (bind(l, (void *)&ss, len) || listen(l, 512))
		return 1;
	for (i = 0; i < cpus(); i++) {
		int ep, conn;

		if (fork())
			continue;
		ep = epoll_create1(0);
		epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
		for (;;) {
			epoll_wait(ep, &ev, 1, -1);
			conn = accept4(l, NULL, NULL, SOCK_CLOEXEC);
			if (conn >= 0)
				answer(conn);
		}
	}
	pause();
	return 0;
}

/* Do its replies come from the CPU of their client? */
static int check_server(int port)
{
	int cpu, i, wrong = 0, total = cpus() * 100;

	/* By turns: a load from one CPU alone would not be steered. */
	for (i = -20; i < 100; i++) {
		for (cpu = 0; cpu < cpus(); cpu++) {
			bind_cpu(cpu);
			if (ask(AF_INET, port) != cpu && i >= 0)
				wrong++; /* before, workers may have no clones yet */
		}
	}
	printf("# %d of %d replies from another CPU\n", wrong, total);
	return wrong > total / 20;
}

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{ "bad arguments", test_bad_arguments },
	{ "sockets and accept", test_sockets_and_accept },
	{ "the pick, epoll", test_pick_epoll },
	{ "the pick, poll", test_pick_poll },
	{ "the pick, blocking", test_pick_blocking },
	{ "the pick, accept4 without the device", test_pick_plain_accept },
	{ "the pick, IPv6", test_pick_inet6 },
	{ "fewer workers than CPUs", test_fewer_workers },
	{ "more workers than CPUs", test_more_workers },
	{ "the queue of a worker that dies", test_queue_of_the_dead },
	{ "shutdown and backlog", test_shutdown_and_backlog },
	{ "options of a clone", test_options },
	{ "a second start", test_address_in_use },
	{ "ports below 1024", test_privileged_ports },
	{ "a filter of system calls", test_seccomp },
	{ "the device closes itself", test_close_itself },
	{ "32-bit callers", test_32_bit },
	{ "races", test_races },
	{ "a storm", test_storm },
};

int main(int argc, char **argv)
{
	unsigned int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]));
	if (argc == 3 && !strcmp(argv[1], "check"))
		return check_server(atoi(argv[2]));
	dev = open("/dev/fastsocket", O_RDONLY | O_CLOEXEC);
	if (dev < 0) {
		perror("/dev/fastsocket");
		return 1;
	}
	printf("# scale %s\n", getenv("STACKFS_SCALE") ?: "1");
	for (i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		bad = false;
		alarm(600);
		tests[i].run();
		bind_cpu(-1);
		printf("%s %u - %s\n", bad ? "not ok" : "ok", i + 1, tests[i].name);
		failed += bad;
		passed += !bad;
	}
	printf("# selftest: %d passed, %d failed\n", passed, failed);
	return failed > 0;
}
