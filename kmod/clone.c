// SPDX-License-Identifier: GPL-2.0
/*
 * Clones of listeners.
 *
 * A clone is a listener of the same SO_REUSEPORT group as its original, with
 * SO_INCOMING_CPU of the worker that has it. What no clone is for goes to the
 * original, which no worker would wait for if it had only its clone; so a
 * clone stands for both: whoever waits for it is woken by the original too,
 * and accept() takes from either. epoll, poll, select, io_uring and accept()
 * need not know.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <net/inet_connection_sock.h>
#include <net/net_namespace.h>
#include <net/request_sock.h>
#include <net/tcp.h>
#include "internal.h"

/**
 * struct fsk_clone - what is known of one clone
 * @node: in fsk_clones, by @sock
 * @sock: the clone; it ends with it
 * @original: the listener that it was made of, held
 * @wait: in the wait queue of the original
 * @worker: the process that it was made for, held
 * @cpu: that it is for
 * @turn: odd: the original's queue is looked at first
 * @rcu: for readers of fsk_clones that have just found it
 */
struct fsk_clone {
	struct hlist_node node;
	struct socket *sock;
	struct file *original;
	wait_queue_entry_t wait;
	struct pid *worker;
	int cpu;
	atomic_t turn;
	struct rcu_head rcu;
};

DEFINE_PER_CPU(struct fsk_stats, fsk_stats);

static DEFINE_HASHTABLE(fsk_clones, 8);
static DEFINE_MUTEX(fsk_mutex); /* of writers of fsk_clones, fsk_ops, fsk_base */

/* The operations of clones and of what they were before, by family. */
static struct proto_ops fsk_ops[2];
static const struct proto_ops *fsk_base[2];

static bool is_inet6(const struct sock *sk)
{
	return sk->sk_family == AF_INET6;
}

/**
 * fsk_base_ops() - what a socket does without this module
 * @sock: any socket
 */
const struct proto_ops *fsk_base_ops(struct socket *sock)
{
	const struct proto_ops *ops = READ_ONCE(sock->ops);

	if (ops == &fsk_ops[0] || ops == &fsk_ops[1])
		return fsk_base[ops == &fsk_ops[1]];
	return ops;
}

static struct sock *original_sk(const struct fsk_clone *c)
{
	return sock_from_file(c->original)->sk;
}

static bool listens(const struct sock *sk)
{
	return inet_sk_state_load(sk) == TCP_LISTEN;
}

/* The caller holds a reference to sock, so that the clone stays. */
static struct fsk_clone *clone_of(struct socket *sock)
{
	struct fsk_clone *c, *found = NULL;

	rcu_read_lock();
	hash_for_each_possible_rcu(fsk_clones, c, node, (unsigned long)sock) {
		if (c->sock == sock) {
			found = c;
			break;
		}
	}
	rcu_read_unlock();
	return found;
}

/* As clone_of; none if sock was shut down, and may be a connection by now. */
static struct fsk_clone *listening_clone(struct socket *sock)
{
	return listens(sock->sk) ? clone_of(sock) : NULL;
}

static bool has_queue(struct sock *sk)
{
	return !reqsk_queue_empty(&inet_csk(sk)->icsk_accept_queue);
}

/* Who waits for the clone waits for the original. */
static int wake_clone(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct fsk_clone *c = container_of(wait, struct fsk_clone, wait);
	wait_queue_head_t *head = sk_sleep(c->sock->sk);

	/* The original is never a clone, so this is not entered twice. */
	if (head && waitqueue_active(head))
		__wake_up(head, mode, 1, key);
	return 0;
}

static int base_accept(struct socket *sock, struct socket *newsock, int flags)
{
	const struct proto_ops *ops = fsk_base_ops(sock);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
	struct proto_accept_arg arg = { .flags = flags };

	return ops->accept(sock, newsock, &arg);
#else
	return ops->accept(sock, newsock, flags, false);
#endif
}

/* A worker that was bound to a CPU since is followed. */
static void follow(struct fsk_clone *c)
{
	int cpu = raw_smp_processor_id();

	if (current->nr_cpus_allowed != 1 || READ_ONCE(c->cpu) == cpu)
		return;
	WRITE_ONCE(c->cpu, cpu);
	WRITE_ONCE(c->sock->sk->sk_incoming_cpu, cpu);
}

static int accept_global(struct fsk_clone *c, struct socket *newsock, int flags)
{
	int err = base_accept(sock_from_file(c->original), newsock, flags | O_NONBLOCK);

	if (!err)
		this_cpu_inc(fsk_stats.global);
	return err;
}

static int accept_local(struct fsk_clone *c, struct socket *newsock, int flags)
{
	int err = base_accept(c->sock, newsock, flags | O_NONBLOCK);

	if (err)
		return err;
	if (READ_ONCE(c->cpu) == raw_smp_processor_id())
		this_cpu_inc(fsk_stats.local);
	else
		this_cpu_inc(fsk_stats.remote);
	return 0;
}

/* Both queues by turns, as long as both have something. */
static int accept_either(struct fsk_clone *c, struct socket *newsock, int flags)
{
	struct sock *global = original_sk(c);
	bool first = has_queue(global) && (atomic_inc_return(&c->turn) & 1);
	int err;

	if (first) {
		err = accept_global(c, newsock, flags);
		if (err != -EAGAIN)
			return err;
	}
	err = accept_local(c, newsock, flags);
	if (err == -EAGAIN && has_queue(global))
		err = accept_global(c, newsock, flags);
	if (err == -EAGAIN && !listens(global))
		return -EINVAL;
	return err;
}

static int accept_waiting(struct fsk_clone *c, struct socket *newsock, int flags)
{
	struct sock *sk = c->sock->sk;
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	long left = sock_rcvtimeo(sk, flags & O_NONBLOCK);
	int err;

	add_wait_queue_exclusive(sk_sleep(sk), &wait);
	for (;;) {
		err = accept_either(c, newsock, flags);
		if (err != -EAGAIN || !left)
			break;
		if (signal_pending(current)) {
			err = sock_intr_errno(left);
			break;
		}
		left = wait_woken(&wait, TASK_INTERRUPTIBLE, left);
	}
	remove_wait_queue(sk_sleep(sk), &wait);
	return err;
}

/**
 * fsk_sock_accept() - accept() of any socket
 * @sock: a listener
 * @newsock: a socket with the operations of fsk_base_ops(@sock)
 * @flags: O_NONBLOCK or 0
 */
int fsk_sock_accept(struct socket *sock, struct socket *newsock, int flags)
{
	struct fsk_clone *c = listening_clone(sock);

	if (!c)
		return base_accept(sock, newsock, flags);
	follow(c);
	if (flags & O_NONBLOCK)
		return accept_either(c, newsock, flags);
	return accept_waiting(c, newsock, flags);
}

/* accept4() has given newsock the operations of the clone, with a reference. */
static int clone_accept(struct socket *sock, struct socket *newsock, int flags)
{
	const struct proto_ops *base = fsk_base_ops(sock);

	if (newsock->ops == sock->ops) {
		__module_get(base->owner);
		newsock->ops = base;
		module_put(THIS_MODULE);
	}
	return fsk_sock_accept(sock, newsock, flags);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
static int op_accept(struct socket *sock, struct socket *newsock, struct proto_accept_arg *arg)
{
	return clone_accept(sock, newsock, arg->flags);
}
#else
static int op_accept(struct socket *sock, struct socket *newsock, int flags, bool kern)
{
	return clone_accept(sock, newsock, flags);
}
#endif

static __poll_t op_poll(struct file *file, struct socket *sock, struct poll_table_struct *table)
{
	__poll_t mask = fsk_base_ops(sock)->poll(file, sock, table);
	struct fsk_clone *c = listening_clone(sock);

	if (!c)
		return mask;
	if (has_queue(original_sk(c)))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (!listens(original_sk(c)))
		mask |= EPOLLIN | EPOLLRDNORM | EPOLLHUP;
	return mask;
}

static int op_listen(struct socket *sock, int backlog)
{
	struct fsk_clone *c = listening_clone(sock);
	int err = fsk_base_ops(sock)->listen(sock, backlog);

	if (!err && c && listens(original_sk(c)))
		err = kernel_listen(sock_from_file(c->original), backlog);
	return err;
}

static int op_shutdown(struct socket *sock, int how)
{
	return fsk_shutdown(sock, how);
}

/* Puts a connection of one listener's queue into that of another. */
static void move(struct request_sock *req, struct sock *to)
{
	struct sock *child = req->sk;

	bh_lock_sock(child);
	sock_hold(child);
	sock_hold(to);
	sock_put(req->rsk_listener);
	req->rsk_listener = to;
	if (!inet_csk_reqsk_queue_add(to, req, child))
		reqsk_put(req); /* to was closed: so is the child */
	bh_unlock_sock(child);
	sock_put(child);
}

/*
 * Moves the accept queue of a clone that is about to be closed to its
 * original. Connections that are not yet established are the kernel's to
 * move (net.ipv4.tcp_migrate_req).
 */
static void hand_on(struct fsk_clone *c)
{
	struct sock *sk = c->sock->sk, *to = original_sk(c);
	struct request_sock_queue *queue;
	unsigned long n = 0;

	if (!sk || !listens(sk) || !listens(to))
		return;
	queue = &inet_csk(sk)->icsk_accept_queue;
	lock_sock(sk);
	sk->sk_prot->unhash(sk);
	release_sock(sk);
	/* Those that have found it before may still queue to it. */
	synchronize_rcu();
	lock_sock(sk);
	local_bh_disable();
	/* What TCP Fast Open has not yet acknowledged is bound to its listener. */
	for (; has_queue(sk) && !tcp_rsk(READ_ONCE(queue->rskq_accept_head))->tfo_listener; n++)
		move(reqsk_queue_remove(queue, sk), to);
	local_bh_enable();
	release_sock(sk);
	if (!n)
		return;
	this_cpu_add(fsk_stats.moved, n);
	to->sk_data_ready(to);
}

static int op_release(struct socket *sock)
{
	const struct proto_ops *base = fsk_base_ops(sock);
	struct fsk_clone *c = clone_of(sock);
	struct sock *original;

	if (!c)
		return base->release(sock);
	original = original_sk(c);
	mutex_lock(&fsk_mutex);
	hash_del_rcu(&c->node);
	mutex_unlock(&fsk_mutex);
	remove_wait_queue(sk_sleep(original), &c->wait);
	hand_on(c);
	base->release(sock);
	fput(c->original);
	put_pid(c->worker);
	kfree_rcu(c, rcu);
	return 0;
}

/* Gives n the operations of a clone, once it has c. */
static void dress(struct socket *n, struct fsk_clone *c)
{
	const struct proto_ops *base = n->ops;
	int six = is_inet6(n->sk);
	struct proto_ops *ops = &fsk_ops[six];

	lockdep_assert_held(&fsk_mutex);
	if (!fsk_base[six]) {
		*ops = *base;
		ops->owner = THIS_MODULE;
		ops->accept = op_accept;
		ops->poll = op_poll;
		ops->listen = op_listen;
		ops->shutdown = op_shutdown;
		ops->release = op_release;
		fsk_base[six] = base;
	}
	hash_add_rcu(fsk_clones, &c->node, (unsigned long)n);
	__module_get(THIS_MODULE);
	WRITE_ONCE(n->ops, ops);
	module_put(base->owner);
}

#define copy_field(field) (to->field = from->field)

static void copy_inet(struct sock *nsk, const struct sock *sk)
{
	struct inet_sock *to = inet_sk(nsk);
	const struct inet_sock *from = inet_sk(sk);

	copy_field(tos);
	copy_field(uc_ttl);
	copy_field(min_ttl);
	copy_field(pmtudisc);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	inet_assign_bit(FREEBIND, nsk, inet_test_bit(FREEBIND, sk));
	inet_assign_bit(TRANSPARENT, nsk, inet_test_bit(TRANSPARENT, sk));
	inet_assign_bit(RECVERR, nsk, inet_test_bit(RECVERR, sk));
#else
	copy_field(freebind);
	copy_field(transparent);
	copy_field(recverr);
#endif
}

static void copy_tcp(struct sock *nsk, const struct sock *sk)
{
	struct tcp_sock *to = tcp_sk(nsk);
	const struct tcp_sock *from = tcp_sk(sk);

	copy_field(rx_opt.user_mss);
	copy_field(nonagle);
	copy_field(keepalive_time);
	copy_field(keepalive_intvl);
	copy_field(keepalive_probes);
	copy_field(linger2);
	copy_field(notsent_lowat);
	copy_field(window_clamp);
	copy_field(save_syn);
	inet_csk(nsk)->icsk_syn_retries = inet_csk(sk)->icsk_syn_retries;
	inet_csk(nsk)->icsk_user_timeout = inet_csk(sk)->icsk_user_timeout;
	inet_csk(nsk)->icsk_accept_queue.rskq_defer_accept =
		inet_csk(sk)->icsk_accept_queue.rskq_defer_accept;
}

/* The options of the original, whatever right they needed. */
static void copy_options(struct sock *to, const struct sock *from)
{
	static const enum sock_flags flags[] = { SOCK_LINGER, SOCK_KEEPOPEN, SOCK_URGINLINE };
	int i;

	lock_sock(to);
	copy_field(sk_uid);
	copy_field(sk_reuse);
	copy_field(sk_ipv6only);
	copy_field(sk_bound_dev_if);
	copy_field(sk_mark);
	copy_field(sk_priority);
	copy_field(sk_lingertime);
	copy_field(sk_rcvtimeo);
	copy_field(sk_sndtimeo);
	copy_field(sk_rcvlowat);
	copy_field(sk_rcvbuf);
	copy_field(sk_sndbuf);
	to->sk_userlocks |= from->sk_userlocks & SOCK_BUF_LOCK_MASK;
	for (i = 0; i < ARRAY_SIZE(flags); i++)
		sock_valbool_flag(to, flags[i], sock_flag(from, flags[i]));
	copy_inet(to, from);
	copy_tcp(to, from);
	to->sk_reuseport = 1;
	release_sock(to);
}

/* May there be a clone of sk? */
static int check_original(struct sock *sk)
{
	if (sk->sk_type != SOCK_STREAM || sk->sk_protocol != IPPROTO_TCP ||
	    (sk->sk_family != AF_INET && sk->sk_family != AF_INET6) || !listens(sk))
		return -EINVAL;
	if (rcu_access_pointer(sk->sk_filter))
		return -EOPNOTSUPP;
	return 0;
}

static int bind_as(struct socket *n, struct socket *original)
{
	struct sockaddr_storage addr, now;
	int len = original->ops->getname(original, (struct sockaddr *)&addr, 0);
	int err;

	if (len < 0)
		return len;
	err = kernel_bind(n, (struct sockaddr *)&addr, len);
	if (err)
		return err;
	/* It may have become another one meanwhile. */
	if (!listens(original->sk) ||
	    original->ops->getname(original, (struct sockaddr *)&now, 0) != len ||
	    memcmp(&addr, &now, len))
		return -EINVAL;
	return 0;
}

/*
 * A bound socket that does not listen yet. It is made with the rights of who
 * made the original, since the caller may have none to its port any more;
 * what the caller gets is an address that it accepts from already.
 */
static int make_socket(struct file *file, struct socket **res)
{
	struct socket *original = sock_from_file(file), *n;
	struct sock *sk = original->sk;
	const struct cred *own = override_creds(file->f_cred);
	int err;

	err = __sock_create(sock_net(sk), sk->sk_family, SOCK_STREAM, IPPROTO_TCP, &n, 0);
	if (err)
		goto out;
	copy_options(n->sk, sk);
	SOCK_INODE(n)->i_uid = SOCK_INODE(original)->i_uid;
	SOCK_INODE(n)->i_gid = SOCK_INODE(original)->i_gid;
	lock_sock(sk);
	sk->sk_reuseport = 1;
	release_sock(sk);
	err = bind_as(n, original);
	if (err)
		sock_release(n);
	else
		*res = n;
out:
	revert_creds(own);
	return err;
}

/* The CPUs that the clones of an original are for. */
static void taken_cpus(struct file *original, struct cpumask *mask)
{
	struct fsk_clone *c;
	int i;

	lockdep_assert_held(&fsk_mutex);
	cpumask_clear(mask);
	hash_for_each(fsk_clones, i, c, node) {
		if (c->original == original)
			cpumask_set_cpu(READ_ONCE(c->cpu), mask);
	}
}

/* The CPU for a clone that the caller asks for, or an error. */
static int choose_cpu(struct file *original, int cpu)
{
	cpumask_var_t taken;

	if (fsk_spawn_mode == 0)
		return -EPERM;
	if (fsk_spawn_mode == 1 && cpu < 0 && current->nr_cpus_allowed != 1)
		return -EPERM;
	if (cpu >= 0)
		return (unsigned int)cpu < nr_cpu_ids && cpu_online(cpu) &&
			cpumask_test_cpu(cpu, current->cpus_ptr) ? cpu : -EINVAL;
	if (!zalloc_cpumask_var(&taken, GFP_KERNEL))
		return -ENOMEM;
	taken_cpus(original, taken);
	cpumask_andnot(taken, current->cpus_ptr, taken);
	cpumask_and(taken, taken, cpu_online_mask);
	cpu = cpumask_first(taken);
	free_cpumask_var(taken);
	return cpu < nr_cpu_ids ? cpu : -EINVAL; /* as many workers as CPUs have one */
}

static struct fsk_clone *new_clone(struct file *original, struct socket *n, int cpu)
{
	struct fsk_clone *c = kzalloc(sizeof(*c), GFP_KERNEL_ACCOUNT);

	if (!c)
		return NULL;
	c->sock = n;
	c->original = get_file(original);
	c->worker = get_pid(task_tgid(current));
	c->cpu = cpu;
	init_waitqueue_func_entry(&c->wait, wake_clone);
	return c;
}

/* A clone of a listener for a CPU, in *res. It has none yet: it is chosen. */
static int make_clone(struct file *original, int cpu, struct socket **res)
{
	struct sock *sk = sock_from_file(original)->sk;
	struct fsk_clone *c;
	struct socket *n;
	int err = check_original(sk);

	if (err)
		return err;
	err = make_socket(original, &n);
	if (err)
		return err;
	mutex_lock(&fsk_mutex);
	cpu = choose_cpu(original, cpu);
	if (cpu < 0) {
		err = cpu;
		goto release;
	}
	err = sock_setsockopt(n, SOL_SOCKET, SO_INCOMING_CPU, KERNEL_SOCKPTR(&cpu), sizeof(cpu));
	if (err)
		goto release;
	c = new_clone(original, n, cpu);
	if (!c) {
		err = -ENOMEM;
		goto release;
	}
	dress(n, c);
	mutex_unlock(&fsk_mutex);
	add_wait_queue(sk_sleep(sk), &c->wait);
	*res = n;
	return cpu;

release:
	mutex_unlock(&fsk_mutex);
	sock_release(n);
	return err;
}

/*
 * Puts file at fd, if that is old still. Takes the reference to file if so.
 * The body of dup2(), which is not for modules.
 */
static bool replace_fd_of(unsigned int fd, struct file *old, struct file *file)
{
	struct files_struct *files = current->files;
	struct fdtable *table;
	bool same = false;

	spin_lock(&files->file_lock);
	table = files_fdtable(files);
	if (fd < table->max_fds &&
	    rcu_dereference_protected(table->fd[fd], lockdep_is_held(&files->file_lock)) == old) {
		rcu_assign_pointer(table->fd[fd], file);
		same = true;
	}
	spin_unlock(&files->file_lock);
	if (same)
		filp_close(old, files);
	return same;
}

/* Puts a clone of original at fd, where file is. */
static int spawn_at(unsigned int fd, struct file *file, struct file *original, int cpu)
{
	struct sock *sk = sock_from_file(original)->sk;
	struct file *clone;
	struct socket *n;
	int err;

	cpu = make_clone(original, cpu, &n);
	if (cpu < 0)
		return cpu;
	clone = sock_alloc_file(n, file->f_flags & O_NONBLOCK, NULL); /* releases n if it fails */
	if (IS_ERR(clone))
		return PTR_ERR(clone);
	err = fsk_base_ops(n)->listen(n, READ_ONCE(sk->sk_max_ack_backlog));
	if (!err && !replace_fd_of(fd, file, clone))
		err = -EBADF;
	if (err) {
		fput(clone);
		return err;
	}
	if (fsk_spawn_mode == 2)
		set_cpus_allowed_ptr(current, cpumask_of(cpu));
	fsk_dbg("pid %d has a clone at fd %u for CPU %d\n", task_tgid_nr(current), fd, cpu);
	return 0;
}

/**
 * fsk_spawn() - put a clone at a descriptor
 * @fd: a listener
 * @cpu: that it is for; negative: one that the caller may run on and that no
 *	other clone of the listener has
 * @again: make one in place of a clone of another process, which was inherited
 *
 * Return: 0 or an error. EEXIST: there is a clone already.
 */
int fsk_spawn(unsigned int fd, int cpu, bool again)
{
	struct file *file = fget(fd), *original;
	struct fsk_clone *c;
	struct socket *sock;
	int err;

	if (!file)
		return -EBADF;
	sock = sock_from_file(file);
	err = -ENOTSOCK;
	if (!sock)
		goto out;
	err = -EEXIST;
	c = clone_of(sock);
	if (c && (!again || c->worker == task_tgid(current)))
		goto out;
	original = get_file(c ? c->original : file);
	err = spawn_at(fd, file, original, cpu);
	fput(original);
out:
	fput(file);
	return err;
}

/**
 * fsk_spawn_all() - put clones at all listeners of the caller
 *
 * Return: 0, or the sum of the errors. Who has a clone keeps it.
 */
int fsk_spawn_all(void)
{
	unsigned int fd, max;
	int sum = 0, err;

	rcu_read_lock();
	max = files_fdtable(current->files)->max_fds;
	rcu_read_unlock();
	for (fd = 0; fd < max; fd++) {
		struct file *file = fget(fd);
		struct socket *sock = file ? sock_from_file(file) : NULL;
		bool listener = sock && sock->sk && !check_original(sock->sk);

		if (file)
			fput(file);
		if (listener) {
			err = fsk_spawn(fd, -1, true);
			if (err != -EEXIST)
				sum += err;
		}
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return sum;
}

/**
 * fsk_listen() - listen() of a socket, and of its original
 * @sock: any socket
 * @backlog: in connections; net.core.somaxconn is the most
 */
int fsk_listen(struct socket *sock, int backlog)
{
	unsigned int most = READ_ONCE(sock_net(sock->sk)->core.sysctl_somaxconn);

	if ((unsigned int)backlog > most)
		backlog = most;
	return kernel_listen(sock, backlog);
}

/**
 * fsk_shutdown() - shutdown() of a socket, its original and all clones of that
 * @sock: any socket
 * @how: as for shutdown()
 */
int fsk_shutdown(struct socket *sock, int how)
{
	struct fsk_clone *c = listening_clone(sock);
	struct socket *original = c ? sock_from_file(c->original) : sock;
	int err = fsk_base_ops(original)->shutdown(original, how);
	int i;

	if (listens(original->sk) || original->sk->sk_protocol != IPPROTO_TCP)
		return err;
	mutex_lock(&fsk_mutex);
	hash_for_each(fsk_clones, i, c, node) {
		if (sock_from_file(c->original) == original && listens(c->sock->sk))
			fsk_base_ops(c->sock)->shutdown(c->sock, how);
	}
	mutex_unlock(&fsk_mutex);
	return err;
}
