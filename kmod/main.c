// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/fastsocket: the requests of Fastsocket for servers that were made for
 * it, on kernels that have SO_REUSEPORT and SO_INCOMING_CPU.
 *
 * A caller gets no more through it than by the system calls: it needs a
 * descriptor of a listener to get a clone of that.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/compat.h>
#include <linux/file.h>
#include <linux/fdtable.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seccomp.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <net/net_namespace.h>
#include "fastsocket.h"
#include "internal.h"

int fsk_spawn_mode = 2;
module_param_named(enable_listen_spawn, fsk_spawn_mode, int, 0444);
MODULE_PARM_DESC(enable_listen_spawn, "0: no clones, 1: for workers bound to a CPU, 2: workers are bound (default)");

int fsk_debug = 3;
module_param_named(enable_fastsocket_debug, fsk_debug, int, 0644);
MODULE_PARM_DESC(enable_fastsocket_debug, "4: tell of each clone in the kernel log");

static bool nonblocking;
module_param_named(accept_never_blocks, nonblocking, bool, 0644);
MODULE_PARM_DESC(accept_never_blocks, "ACCEPT of a blocking listener fails with EAGAIN, as Fastsocket's did");

/* Parameters of Fastsocket without a meaning on this kernel. */
static int unused_param;

static int set_unused(const char *val, const struct kernel_param *kp)
{
	int n, err = kstrtoint(val, 0, &n);

	if (!err && n)
		pr_warn("%s has no effect on this kernel\n", kp->name);
	return err;
}

static const struct kernel_param_ops unused_ops = { .set = set_unused, .get = param_get_int };

module_param_cb(enable_receive_flow_deliver, &unused_ops, &unused_param, 0444);
module_param_cb(enable_fast_epoll, &unused_ops, &unused_param, 0444);
module_param_cb(enable_direct_tcp, &unused_ops, &unused_param, 0444);
module_param_cb(enable_skb_pool, &unused_ops, &unused_param, 0444);
module_param_cb(enable_receive_cpu_selection, &unused_ops, &unused_param, 0444);
module_param_cb(enable_socket_pool_size, &unused_ops, &unused_param, 0444);

#define CREATE_FLAGS (SOCK_CLOEXEC | SOCK_NONBLOCK)

/* The socket at a descriptor. The caller puts (*file). */
static struct socket *socket_at(unsigned int fd, struct file **file)
{
	struct socket *sock;

	*file = fget(fd);
	if (!*file)
		return ERR_PTR(-EBADF);
	sock = sock_from_file(*file);
	if (sock)
		return sock;
	fput(*file);
	return ERR_PTR(-ENOTSOCK);
}

static long ioc_socket(const struct fsocket_arg *arg)
{
	int flags = arg->op.socket.type & ~SOCK_TYPE_MASK;
	struct socket *sock;
	struct file *file;
	int fd, err;

	if (flags & ~CREATE_FLAGS)
		return -EINVAL;
	err = sock_create(arg->op.socket.family, arg->op.socket.type & SOCK_TYPE_MASK,
			  arg->op.socket.protocol, &sock);
	if (err)
		return err;
	fd = get_unused_fd_flags(flags & O_CLOEXEC);
	if (fd < 0) {
		sock_release(sock);
		return fd;
	}
	file = sock_alloc_file(sock, flags & O_NONBLOCK, NULL);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return fd;
}

/* Does something with the socket at a descriptor. */
static long at_socket(unsigned int fd, int (*call)(struct socket *sock, int n), int n)
{
	struct file *file;
	struct socket *sock = socket_at(fd, &file);
	int err;

	if (IS_ERR(sock))
		return PTR_ERR(sock);
	err = call(sock, n);
	fput(file);
	return err;
}

/* Gives the caller the address of the peer, as accept() does. */
static int put_peer(struct socket *sock, void __user *to, int __user *to_len)
{
	struct sockaddr_storage addr;
	int room, len;

	if (!to)
		return 0;
	len = sock->ops->getname(sock, (struct sockaddr *)&addr, 2);
	if (len < 0)
		return -ECONNABORTED;
	if (get_user(room, to_len))
		return -EFAULT;
	if (room < 0)
		return -EINVAL;
	if (copy_to_user(to, &addr, min(room, len)) || put_user(len, to_len))
		return -EFAULT;
	return 0;
}

/* A socket for accept() of sock, with a file. Takes no reference to sock. */
static struct file *new_accepted(struct socket *sock, int flags)
{
	struct socket *n = sock_alloc();

	if (!n)
		return ERR_PTR(-ENFILE);
	n->type = sock->type;
	n->ops = fsk_base_ops(sock);
	__module_get(n->ops->owner);
	return sock_alloc_file(n, flags & O_NONBLOCK, sock->sk->sk_prot_creator->name);
}

static long accept_from(struct socket *sock, int wait_flags, const struct fsocket_arg *arg)
{
	int flags = arg->op.accept.flags;
	struct file *file;
	int fd, err;

	/* As in Fastsocket; who blocks in accept() wants to block in read(). */
	if (wait_flags & O_NONBLOCK)
		flags |= SOCK_NONBLOCK;
	fd = get_unused_fd_flags(flags & O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = new_accepted(sock, flags);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	err = fsk_sock_accept(sock, sock_from_file(file), wait_flags);
	if (!err)
		err = put_peer(sock_from_file(file), arg->op.accept.sockaddr, arg->op.accept.len);
	if (err) {
		fput(file);
		put_unused_fd(fd);
		return err;
	}
	fd_install(fd, file);
	return fd;
}

static long ioc_accept(const struct fsocket_arg *arg)
{
	struct socket *sock;
	struct file *file;
	int wait_flags;
	long ret;

	if (arg->op.accept.flags & ~CREATE_FLAGS)
		return -EINVAL;
	sock = socket_at(arg->fd, &file);
	if (IS_ERR(sock))
		return PTR_ERR(sock);
	wait_flags = file->f_flags & O_NONBLOCK;
	if (nonblocking)
		wait_flags = O_NONBLOCK;
	ret = accept_from(sock, wait_flags, arg);
	fput(file);
	return ret;
}

/* Who listened last by this opening of the device is known in private_data. */
static long ioc_listen(struct file *dev, const struct fsocket_arg *arg)
{
	long err = at_socket(arg->fd, fsk_listen, arg->backlog);

	if (!err)
		put_pid(xchg((struct pid **)&dev->private_data, get_pid(task_tgid(current))));
	return err;
}

/*
 * Fastsocket's libraries ask for a clone without a CPU: one when its program
 * listens, before it makes its workers, another when a worker adds a listener
 * to its epoll. A clone for who listens, and the binding to a CPU that goes
 * with it, would only keep one CPU from the workers: for that nothing is done.
 */
static long ioc_spawn(struct file *dev, const struct fsocket_arg *arg)
{
	struct file *file;
	struct socket *sock;

	if (arg->op.spawn.cpu >= 0)
		return fsk_spawn(arg->fd, arg->op.spawn.cpu, false);
	if (READ_ONCE(dev->private_data) != task_tgid(current))
		return fsk_spawn(arg->fd, -1, true);
	sock = socket_at(arg->fd, &file);
	if (IS_ERR(sock))
		return PTR_ERR(sock);
	fput(file);
	return fsk_spawn_mode ? 0 : -EPERM;
}

static long request(struct file *dev, unsigned int cmd, const struct fsocket_arg *arg)
{
	switch (cmd) {
	case FSOCKET_IOC_SOCKET:
		return ioc_socket(arg);
	case FSOCKET_IOC_LISTEN:
		return ioc_listen(dev, arg);
	case FSOCKET_IOC_ACCEPT:
		return ioc_accept(arg);
	case FSOCKET_IOC_CLOSE:
		return close_fd(arg->fd);
	case FSOCKET_IOC_SPAWN_LISTEN:
		return ioc_spawn(dev, arg);
	case FSOCKET_IOC_SHUTDOWN_LISTEN:
		return at_socket(arg->fd, fsk_shutdown, arg->op.shutdown.how);
	case FSOCKET_IOC_SPAWN_ALL_LISTEN:
		return fsk_spawn_all();
	}
	return -EINVAL;
}

static bool is_request(unsigned int cmd)
{
	return _IOC_TYPE(cmd) == 0xf5;
}

static long fsk_ioctl(struct file *file, unsigned int cmd, unsigned long p)
{
	struct fsocket_arg arg;

	if (!is_request(cmd))
		return -ENOTTY;
	if (copy_from_user(&arg, (void __user *)p, sizeof(arg)))
		return -EFAULT;
	return request(file, cmd, &arg);
}

#ifdef CONFIG_COMPAT
struct compat_fsocket_arg {
	u32 fd;
	u32 backlog;
	union {
		struct {
			compat_uptr_t sockaddr;
			compat_uptr_t len;
			s32 flags;
		} accept;
		u32 size[5];
	} op;
};

static long fsk_compat_ioctl(struct file *file, unsigned int cmd, unsigned long p)
{
	struct compat_fsocket_arg from;
	struct fsocket_arg arg = {};

	if (!is_request(cmd))
		return -ENOTTY;
	if (copy_from_user(&from, compat_ptr(p), sizeof(from)))
		return -EFAULT;
	arg.fd = from.fd;
	arg.backlog = from.backlog;
	if (cmd == FSOCKET_IOC_ACCEPT) {
		arg.op.accept.sockaddr = compat_ptr(from.op.accept.sockaddr);
		arg.op.accept.len = compat_ptr(from.op.accept.len);
		arg.op.accept.flags = from.op.accept.flags;
	} else {
		memcpy(&arg.op, &from.op, sizeof(from.op));
	}
	return request(file, cmd, &arg);
}
#endif

/*
 * A filter of system calls knows nothing of the requests: what it forbids, as
 * RestrictAddressFamilies= of systemd, they would allow.
 */
static int fsk_open(struct inode *inode, struct file *file)
{
#ifdef CONFIG_SECCOMP
	if (seccomp_mode(&current->seccomp))
		return -EPERM;
#endif
	file->private_data = NULL; /* misc's own */
	return 0;
}

static int fsk_close(struct inode *inode, struct file *file)
{
	put_pid(file->private_data);
	return 0;
}

static const struct file_operations fsk_fops = {
	.owner = THIS_MODULE,
	.open = fsk_open,
	.release = fsk_close,
	.unlocked_ioctl = fsk_ioctl,
#ifdef CONFIG_COMPAT
	.compat_ioctl = fsk_compat_ioctl,
#endif
	.llseek = noop_llseek,
};

static struct miscdevice fsk_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fastsocket",
	.fops = &fsk_fops,
	.mode = 0444,
};

static int show_stats(struct seq_file *m, void *v)
{
	int cpu;

	seq_puts(m, "CPU\tlocal\tremote\tglobal\tmoved\n");
	for_each_possible_cpu(cpu) {
		struct fsk_stats *s = per_cpu_ptr(&fsk_stats, cpu);

		seq_printf(m, "%d\t%lu\t%lu\t%lu\t%lu\n", cpu, READ_ONCE(s->local),
			   READ_ONCE(s->remote), READ_ONCE(s->global), READ_ONCE(s->moved));
	}
	return 0;
}

static int __init fsk_init(void)
{
	int err;

	if (fsk_spawn_mode < 0 || fsk_spawn_mode > 2) {
		pr_err("enable_listen_spawn=%d is no mode: 0, 1 or 2\n", fsk_spawn_mode);
		return -EINVAL;
	}
	if (!proc_create_single("fsocket_stats", 0444, init_net.proc_net, show_stats))
		return -ENOMEM;
	err = misc_register(&fsk_device);
	if (err)
		remove_proc_entry("fsocket_stats", init_net.proc_net);
	return err;
}

static void __exit fsk_exit(void)
{
	misc_deregister(&fsk_device);
	remove_proc_entry("fsocket_stats", init_net.proc_net);
	rcu_barrier();
}

module_init(fsk_init);
module_exit(fsk_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Fastsocket's /dev/fastsocket on stock kernels");
MODULE_VERSION("1.0");
