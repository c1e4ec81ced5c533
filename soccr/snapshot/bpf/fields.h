/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * fields.h: reads the state and the options of a socket into its slot.
 */
#ifndef SNAPSHOT_FIELDS_H
#define SNAPSHOT_FIELDS_H

#include "walk.h"

#define AF_INET6 10

/* Returns what an AF_INET6 socket has besides, or NULL. */
static __always_inline struct ipv6_pinfo *get_pinfo(struct sock *sk)
{
	struct inet_sock *inet = (void *)sk;

	if (!bpf_core_field_exists(inet->pinet6) || sk->__sk_common.skc_family != AF_INET6)
		return NULL;
	return BPF_CORE_READ(inet, pinet6);
}

static __always_inline void read_addresses(struct slot *o, struct sock *sk)
{
	struct inet_sock *inet = (void *)sk;
	__be32 v4;

	o->family = sk->__sk_common.skc_family;
	o->local_port = sk->__sk_common.skc_num;
	o->remote_port = __builtin_bswap16(sk->__sk_common.skc_dport);
	o->bound_dev_if = sk->__sk_common.skc_bound_dev_if;
	if (o->family == AF_INET6 && bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		BPF_CORE_READ_INTO(&o->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&o->remote, sk, __sk_common.skc_v6_daddr);
		return;
	}
	v4 = sk->__sk_common.skc_rcv_saddr;
	if (!v4)
		v4 = inet->inet_saddr;
	*(__be32 *)o->local = v4;
	*(__be32 *)o->remote = sk->__sk_common.skc_daddr;
}

static __always_inline void read_owner(struct slot *o, struct sock *sk)
{
	struct socket *socket = BPF_CORE_READ(sk, sk_socket);

	o->uid = BPF_CORE_READ(sk, sk_uid.val);
	o->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
	if (socket) {
		struct socket_alloc *a = (void *)socket - bpf_core_field_offset(struct socket_alloc, socket);

		o->inode = BPF_CORE_READ(a, vfs_inode.i_ino);
	}
}

static __always_inline void read_sequence(struct slot *o, struct tcp_sock *tp)
{
	o->rcv_nxt = tp->rcv_nxt;
	o->copied_seq = tp->copied_seq;
	o->write_seq = tp->write_seq;
	o->snd_una = tp->snd_una;
	o->snd_nxt = tp->snd_nxt;
	o->snd_wl1 = tp->snd_wl1;
	o->snd_wnd = tp->snd_wnd;
	o->max_window = tp->max_window;
	o->rcv_wnd = tp->rcv_wnd;
	o->rcv_wup = tp->rcv_wup;
}

#define TCPI_OPT_TIMESTAMPS 1
#define TCPI_OPT_SACK 2
#define TCPI_OPT_WSCALE 4
#define TCPI_OPT_ECN 8
#define TCPI_OPT_ECN_SEEN 16
#define TCPI_OPT_SYN_DATA 32
#define TCPI_OPT_USEC_TS 64
#define TCPI_OPT_TFO_CHILD 128

#define TCP_ECN_MODE_ANY (1 << 0 | 1 << 4)	/* the second since 6.18 */
#define TCP_ECN_SEEN (1 << 3)

/* As tcp_get_info() tells it. */
static __always_inline void read_negotiated(struct slot *o, struct tcp_sock *tp)
{
	__u32 opts = 0;

	o->usec_ts = 2;
	if (bpf_core_field_exists(tp->tcp_usec_ts))
		o->usec_ts = BPF_CORE_READ_BITFIELD(tp, tcp_usec_ts);
	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.tstamp_ok))
		opts |= TCPI_OPT_TIMESTAMPS;
	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok))
		opts |= TCPI_OPT_SACK;
	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.wscale_ok)) {
		opts |= TCPI_OPT_WSCALE;
		o->snd_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
		o->rcv_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale);
	}
	if (tp->ecn_flags & TCP_ECN_MODE_ANY)
		opts |= TCPI_OPT_ECN;
	if (tp->ecn_flags & TCP_ECN_SEEN)
		opts |= TCPI_OPT_ECN_SEEN;
	if (BPF_CORE_READ_BITFIELD(tp, syn_data_acked))
		opts |= TCPI_OPT_SYN_DATA;
	if (o->usec_ts == 1)
		opts |= TCPI_OPT_USEC_TS;
	if (bpf_core_field_exists(tp->syn_fastopen_child) && BPF_CORE_READ_BITFIELD(tp, syn_fastopen_child))
		opts |= TCPI_OPT_TFO_CHILD;
	o->tcpi_options = opts;
	o->mss_clamp = tp->rx_opt.mss_clamp;
	o->tsoffset = tp->tsoffset;
}

static __always_inline void read_info(struct slot *o, struct tcp_sock *tp)
{
	struct sock *sk = (void *)tp;
	struct inet_sock *inet = (void *)tp;
	struct ipv6_pinfo *np = get_pinfo(sk);
	struct walk *w = get_walk();

	o->snd_cwnd = tp->snd_cwnd;
	o->snd_ssthresh = tp->snd_ssthresh;
	o->srtt_us = tp->srtt_us;
	o->mdev_us = tp->mdev_us;
	o->retransmits = tp->inet_conn.icsk_retransmits;
	o->has_filter = BPF_CORE_READ(sk, sk_filter) != NULL;
	if (bpf_core_field_exists(sk->sk_policy))
		o->has_policy = BPF_CORE_READ(sk, sk_policy[0]) != NULL || BPF_CORE_READ(sk, sk_policy[1]) != NULL;
	o->has_ip_options = BPF_CORE_READ(inet, inet_opt) != NULL;
	if (np && BPF_CORE_READ(np, opt) != NULL)
		o->has_ip_options = 1;
	o->errors = sk->sk_error_queue.qlen;
	o->sock_err = sk->sk_err;
	o->tsflags = BPF_CORE_READ_BITFIELD(sk, sk_tsflags);
	if (!w)
		return;
	w->count = 0;
	w->failure = NO_FAILURE;
	plant(w, (__u64)BPF_CORE_READ(tp, out_of_order_queue.rb_node));
	if (w->cur)
		bpf_loop(MAX_LOOPS, ooo_step, NULL, 0);
	o->ooo_bytes = w->count;
}

/* enum of 6.6, <net/inet_sock.h>. */
enum {
	INET_FLAGS_RECVERR = 9, INET_FLAGS_FREEBIND = 11, INET_FLAGS_TRANSPARENT = 15,
	INET_FLAGS_BIND_ADDRESS_NO_PORT = 18, INET_FLAGS_RECVERR6 = 26,
};

static __always_inline void read_inet_options(struct slot *o, struct sock *sk)
{
	struct inet_sock *inet = (void *)sk;
	struct inet_sock___bits *old = (void *)sk;
	struct ipv6_pinfo *np = get_pinfo(sk);
	struct ipv6_pinfo___bits *old6 = (void *)np;

	if (bpf_core_field_exists(inet->inet_flags))
		o->inet_flags = inet->inet_flags;
	else if (bpf_core_field_exists(old->freebind))
		o->inet_flags = BPF_CORE_READ_BITFIELD_PROBED(old, recverr) << INET_FLAGS_RECVERR |
			BPF_CORE_READ_BITFIELD_PROBED(old, freebind) << INET_FLAGS_FREEBIND |
			BPF_CORE_READ_BITFIELD_PROBED(old, transparent) << INET_FLAGS_TRANSPARENT |
			BPF_CORE_READ_BITFIELD_PROBED(old, bind_address_no_port) << INET_FLAGS_BIND_ADDRESS_NO_PORT;
	o->uc_ttl = inet->uc_ttl;
	o->tos = inet->tos;
	o->min_ttl = inet->min_ttl;
	o->pmtudisc = inet->pmtudisc;
	if (!np)
		return;
	if (bpf_core_field_exists(old6->recverr))
		o->inet_flags |= BPF_CORE_READ_BITFIELD_PROBED(old6, recverr) << INET_FLAGS_RECVERR6;
	o->hop_limit = BPF_CORE_READ_BITFIELD_PROBED(np, hop_limit);
	o->tclass = BPF_CORE_READ(np, tclass);
	o->min_hopcount = BPF_CORE_READ(np, min_hopcount);
	o->pmtudisc6 = BPF_CORE_READ_BITFIELD_PROBED(np, pmtudisc);
}

static __always_inline void read_sock_options(struct slot *o, struct sock *sk)
{
	o->flags = sk->__sk_common.skc_flags;
	o->reuse = BPF_CORE_READ_BITFIELD(sk, __sk_common.skc_reuse);
	o->reuseport = BPF_CORE_READ_BITFIELD(sk, __sk_common.skc_reuseport);
	o->v6only = BPF_CORE_READ_BITFIELD(sk, __sk_common.skc_ipv6only);
	o->mark = sk->sk_mark;
	o->priority = sk->sk_priority;
	o->userlocks = BPF_CORE_READ_BITFIELD(sk, sk_userlocks);
	if (bpf_core_field_exists(sk->sk_ll_usec))
		o->ll_usec = sk->sk_ll_usec;
	o->rcvbuf = sk->sk_rcvbuf;
	o->sndbuf = sk->sk_sndbuf;
	o->rcvlowat = sk->sk_rcvlowat;
	o->peek_off = sk->sk_peek_off;
	o->rcvtimeo = sk->sk_rcvtimeo;
	o->sndtimeo = sk->sk_sndtimeo;
	o->lingertime = sk->sk_lingertime;
	o->max_pacing_rate = sk->sk_max_pacing_rate;
}

static __always_inline void read_tcp_options(struct slot *o, struct tcp_sock *tp)
{
	struct inet_connection_sock *icsk = (void *)tp;

	o->nonagle = BPF_CORE_READ_BITFIELD(tp, nonagle);
	o->thin_lto = BPF_CORE_READ_BITFIELD(tp, thin_lto);
	o->recvmsg_inq = BPF_CORE_READ_BITFIELD(tp, recvmsg_inq);
	o->keepalive_time = tp->keepalive_time;
	o->keepalive_intvl = tp->keepalive_intvl;
	o->keepalive_probes = tp->keepalive_probes;
	o->syn_retries = icsk->icsk_syn_retries;
	o->user_timeout = icsk->icsk_user_timeout;
	o->user_mss = tp->rx_opt.user_mss;
	o->notsent_lowat = tp->notsent_lowat;
	o->window_clamp = tp->window_clamp;
	o->linger2 = tp->linger2;
	BPF_CORE_READ_INTO(&o->congestion, icsk, icsk_ca_ops, name);
}

#endif
