/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * kernel.h: what snapshot.bpf.c reads of the kernel's structures.
 *
 * Only the fields that are used are here, in any order: the loader (CO-RE)
 * finds each by its name in the BTF of the running kernel and puts its
 * offset, size and bit position there into the program. A structure whose
 * name ends in ___something is the kernel's of that name as another version
 * has it. Versions are those of mainline.
 */
#ifndef SNAPSHOT_KERNEL_H
#define SNAPSHOT_KERNEL_H

typedef unsigned char __u8;
typedef signed short __s16;
typedef unsigned short __u16;
typedef signed int __s32;
typedef unsigned int __u32;
typedef signed long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

/* Of <uapi/linux/bpf.h>. */
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_ARRAY_OF_MAPS = 12 };
enum { BPF_F_MMAPABLE = 1 << 10, BPF_F_INNER_MAP = 1 << 12 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	__s64 counter;
} atomic64_t;

typedef struct {
	__u32 val;
} kuid_t;

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

struct rb_node {
	unsigned long __rb_parent_color;
	struct rb_node *rb_right;
	struct rb_node *rb_left;
};

struct rb_root {
	struct rb_node *rb_node;
};

struct hlist_node;

struct hlist_head {
	struct hlist_node *first;
};

/* Only its size matters: the arithmetic on addresses holds for 64 bytes. */
struct page {
	unsigned long flags;
};

/* ---- buffers ---- */

/* The elements of skb_shared_info.frags, since 6.9. */
struct skb_frag {
	unsigned long netmem;	/* struct page *, or with bit 0 memory of a device */
	__u32 len;
	__u32 offset;
};

/* The same before. */
struct bio_vec {
	struct page *bv_page;
	__u32 bv_len;
	__u32 bv_offset;
};

struct skb_shared_info {
	__u8 nr_frags;
	struct sk_buff *frag_list;
	struct skb_frag frags[1];
};

struct sk_buff {
	struct sk_buff *next;
	struct rb_node rbnode;
	char cb[48];
	__u32 len, data_len;
	__u32 end;		/* an offset from head: 64 bit kernels */
	unsigned char *head, *data;
	__u8 unreadable : 1;	/* since 6.12 */
};

struct sk_buff_head {
	struct sk_buff *next;
	__u32 qlen;
};

/* What TCP keeps in sk_buff.cb. */
struct tcp_skb_cb {
	__u32 seq, end_seq;
	__u8 tcp_flags;		/* __u16 since 6.17; the low bits are the same */
};

/* ---- the socket ---- */

struct net {
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

enum sock_flags { SOCK_DONE };

struct sock_common {
	__be32 skc_daddr, skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_reuse : 4;
	unsigned char skc_reuseport : 1;
	unsigned char skc_ipv6only : 1;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	unsigned long skc_flags;
};

struct inode {
	unsigned long i_ino;
};

struct socket {
	int state;
};

/* A socket that has a file lies in one of these. */
struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
};

struct sk_filter;
struct xfrm_policy;

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue, sk_write_queue, sk_error_queue;
	struct rb_root tcp_rtx_queue;
	int sk_rcvbuf, sk_sndbuf, sk_rcvlowat, sk_peek_off;
	unsigned int sk_ll_usec;
	struct sk_filter *sk_filter;
	struct xfrm_policy *sk_policy[2];
	long sk_rcvtimeo, sk_sndtimeo;
	__u32 sk_priority, sk_mark;
	unsigned long sk_max_pacing_rate;
	__u8 sk_userlocks : 4;	/* __u8 since 6.6 */
	unsigned long sk_lingertime;
	int sk_err;
	kuid_t sk_uid;
	__u32 sk_tsflags;	/* __u16 before 6.7 */
	__u8 sk_shutdown;
	struct socket *sk_socket;
	void *sk_user_data;
};

struct ip_options_rcu;
struct ipv6_txoptions;

struct ipv6_pinfo {
	struct ipv6_txoptions *opt;
	__s16 hop_limit;	/* bits before 6.8 */
	__u8 pmtudisc;		/* the same */
	__u8 tclass, min_hopcount;
};

/* Until 6.7 this flag was there and not in inet_flags. */
struct ipv6_pinfo___bits {
	__u16 recverr : 1;
};

struct inet_sock {
	struct sock sk;
	struct ipv6_pinfo *pinet6;
	unsigned long inet_flags;	/* since 6.6 */
	__be32 inet_saddr;
	__s16 uc_ttl;
	__be16 inet_sport;
	struct ip_options_rcu *inet_opt;
	__u8 tos, min_ttl, pmtudisc;
};

/* Until 6.5 the flags of an inet_sock were bits of their own. */
struct inet_sock___bits {
	__u8 recverr : 1;
	__u8 freebind : 1;
	__u8 transparent : 1;
	__u8 bind_address_no_port : 1;
};

struct tcp_congestion_ops {
	char name[16];
};

struct tcp_ulp_ops {
	char name[16];
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_congestion_ops *icsk_ca_ops;
	const struct tcp_ulp_ops *icsk_ulp_ops;
	__u8 icsk_retransmits, icsk_syn_retries;
	__u32 icsk_user_timeout;
};

struct tcp_options_received {
	__u16 tstamp_ok : 1;
	__u16 wscale_ok : 1;
	__u16 sack_ok : 3;
	__u16 snd_wscale : 4;
	__u16 rcv_wscale : 4;
	__u16 user_mss, mss_clamp;
};

struct tcp_md5sig_info {
	struct hlist_head head;
};

struct tcp_ao_info;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 rcv_nxt, copied_seq, rcv_wup, rcv_wnd, window_clamp;
	__u32 snd_una, snd_nxt, write_seq, snd_up;
	__u32 snd_wl1, snd_wnd, max_window;
	__u32 snd_cwnd, snd_ssthresh, srtt_us, mdev_us;
	__u32 tsoffset, notsent_lowat;
	__u32 urg_seq;
	__u16 urg_data;
	__u8 ecn_flags, keepalive_probes;
	__u8 nonagle : 4;
	__u8 repair : 1;
	__u8 recvmsg_inq : 1;
	__u8 thin_lto : 1;
	__u8 syn_data_acked : 1;
	__u8 tcp_usec_ts : 1;	/* since 6.7 */
	__u8 syn_fastopen_child : 1;	/* since 6.18 */
	unsigned int keepalive_time, keepalive_intvl;
	int linger2;
	struct tcp_options_received rx_opt;
	struct rb_root out_of_order_queue;
	bool is_mptcp;				/* with CONFIG_MPTCP */
	struct tcp_md5sig_info *md5sig_info;	/* with CONFIG_TCP_MD5SIG */
	struct tcp_ao_info *ao_info;		/* since 6.7, with CONFIG_TCP_AO */
};

/* ---- the iterator ---- */

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop

#endif
