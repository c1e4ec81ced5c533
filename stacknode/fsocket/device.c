// SPDX-License-Identifier: MIT
/*
 * device.c: clones from the kernel module, where there is no stack.
 *
 * The module needs no page; that of a listener is shared by its workers alone.
 */
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../../kmod/fastsocket.h"
#include "../shim/sys.h"
#include "fsocket.h"

#define DEVICE	"/dev/fastsocket"

static int device_open(void)
{
	return SYS(openat, AT_FDCWD, DEVICE, O_RDONLY | O_CLOEXEC, 0);
}

/* Who has a seccomp filter may see it, but not open it. */
bool device_exists(void)
{
	int dev = device_open();

	if (dev >= 0)
		fd_close(dev);
	return dev >= 0;
}

int device_listen(struct spawned *got)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	size_t size = sizeof(struct stackfs_page) + cpus * sizeof(struct stackfs_slot);
	struct stackfs_page *p;

	if (!device_exists())
		return -ENODEV;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	*p = (struct stackfs_page){
		.magic = STACKFS_PAGE_MAGIC, .version = STACKFS_PAGE_VERSION, .slots = cpus, .mode = 2,
	};
	got->page = p;
	got->box = -1;
	return 0;
}

int device_take(int fd, int cpu)
{
	struct fsocket_arg arg = { .op.spawn.cpu = cpu };
	int dev = device_open(), ret;

	if (dev < 0)
		return dev;
	arg.fd = SYS(fcntl, fd, F_DUPFD_CLOEXEC, 0);
	ret = (int)arg.fd < 0 ? (int)arg.fd : SYS(ioctl, dev, FSOCKET_IOC_SPAWN_LISTEN, &arg);
	fd_close(dev);
	if (ret < 0 && (int)arg.fd >= 0)
		fd_close(arg.fd);
	return ret < 0 ? ret : (int)arg.fd;
}
