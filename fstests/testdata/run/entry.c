#include "probe.h"
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

/* seccomp_listener installs a filter that traps getsid(2), with a listener. */
static int seccomp_listener(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getsid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {4, code};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
}

/* listener: a program with a supervisor of its own. */
int do_listener(int argc, char **argv)
{
	(void)argc, (void)argv;
	puts(seccomp_listener() < 0 ? strerrorname_np(errno) : "ok");
	return 0;
}

/* foreign PROGRAM...: starts it under a supervisor that is none of ours: the
 * program has the listener itself. */
int do_foreign(int argc, char **argv)
{
	if (argc < 2 || fcntl(seccomp_listener(), F_SETFD, 0) < 0)
		return 2;
	execvp(argv[1], argv + 1);
	return 2;
}

/* x32: socket(2) by its number in the x32 ABI. */
int do_x32(int argc, char **argv)
{
	(void)argc, (void)argv;
#ifdef __x86_64__
	int fd = syscall(0x40000000 | SYS_socket, AF_INET, SOCK_STREAM, 0);

	puts(fd < 0 ? strerrorname_np(errno) : "ok");
#else
	puts("ENOSYS");
#endif
	return 0;
}

/* uring: io_uring_setup(2), by which sockets can be made. */
int do_uring(int argc, char **argv)
{
	char params[256] = "";
	(void)argc, (void)argv;

	puts(syscall(425, 4, params) < 0 ? strerrorname_np(errno) : "ok");
	return 0;
}

#ifdef __i386__
static int socketcall(int call, void *args)
{
	int r;

	__asm__ volatile("int $0x80" : "=a"(r) : "a"(SYS_socketcall), "b"(call), "c"(args) : "memory");
	return r;
}

static volatile int args[3] = {AF_INET, SOCK_STREAM, 0};
static volatile int stop;

static void *flip(void *unused)
{
	static const int families[] = {AF_INET, AF_UNIX, AF_INET6, AF_NETLINK, 0, 40, -1};
	(void)unused;

	for (unsigned i = 0; !stop; i++) {
		args[0] = families[i % 7];
		args[1] = i % 3 ? SOCK_STREAM : SOCK_DGRAM;
	}
	return NULL;
}

/* socketcall HOST N: the old entry of 32-bit programs, by hand, with a thread that
 * changes the arguments meanwhile; no socket of a network may be of HOST. */
int do_socketcall(int argc, char **argv)
{
	unsigned long long host = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
	int n = argc > 2 ? atoi(argv[2]) : 100, made[3] = {0}, wrong = 0, other = 0;
	int plain[3] = {AF_INET, SOCK_STREAM, 0}, local[3] = {AF_UNIX, SOCK_STREAM, 0};
	pthread_t t;
	int fd = socketcall(1, plain);

	printf("inet %s\n", fd < 0 ? strerrorname_np(-fd) : cookie_of(fd) == host ? "host" : "stack");
	fd = socketcall(1, local);
	printf("unix %s\n", fd < 0 ? strerrorname_np(-fd) : cookie_of(fd) == host ? "host" : "stack");
	fd = socketcall(1, (void *)8);
	printf("bad pointer %s\n", fd < 0 ? strerrorname_np(-fd) : "ok");
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(page + 4096, 4096);
	fd = socketcall(1, page + 4092);
	printf("half a pointer %s\n", fd < 0 ? strerrorname_np(-fd) : "ok");

	pthread_create(&t, NULL, flip, NULL);
	for (int i = 0; i < n; i++) {
		int domain = 0;
		socklen_t len = sizeof(domain);

		fd = socketcall(1, (void *)args);
		if (fd < 0) {
			other += fd != -EAFNOSUPPORT && fd != -EINVAL && fd != -ESOCKTNOSUPPORT && fd != -EPROTONOSUPPORT;
			continue;
		}
		getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
		if (domain == AF_UNIX)
			made[0]++;
		else if (cookie_of(fd) == host || fd <= 2)
			wrong++;
		else
			made[1]++;
		close(fd);
	}
	stop = 1;
	pthread_join(t, NULL);
	printf("unix %s stack %s wrong %d other %d\n", made[0] ? "some" : "none", made[1] ? "some" : "none", wrong, other);
	return wrong > 0;
}
#else
int do_socketcall(int argc, char **argv)
{
	(void)argc, (void)argv;
	return 2;
}
#endif
