// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * snapshot.bpf.c: copies TCP connections while they live.
 *
 * The kernel calls take() for each TCP socket of a network namespace and
 * holds the lock of the socket meanwhile (since 5.15): neither its owner nor
 * a packet can change it. take() passes over all that are not in the map
 * wanted, and for those that are writes the state into the slot and the bytes
 * of the receive, retransmission and write queues into the arena. Nothing of
 * the socket is changed.
 *
 * No byte reaches the arena that is not proven to be at its place: each
 * buffer must begin where the one before it ended, its pieces must be as long
 * as it is, and the queue as long as the sequence numbers tell.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "snapshot.h"

char LICENSE[] SEC("license") = "GPL";

#define AF_INET 2
#define AF_INET6 10

/* enum of <net/tcp_states.h>. */
enum {
	TCP_ESTABLISHED = 1, TCP_SYN_SENT, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_TIME_WAIT,
	TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_LISTEN, TCP_CLOSING, TCP_NEW_SYN_RECV,
};

#define STATES(s) ((1 << TCP_ESTABLISHED | 1 << TCP_SYN_SENT | 1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | \
		    1 << TCP_CLOSE | 1 << TCP_CLOSE_WAIT | 1 << TCP_LAST_ACK | 1 << TCP_CLOSING) & 1 << (s))
/* States in which our FIN has a sequence number. */
#define SENT_FIN(s) ((1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | 1 << TCP_CLOSING | 1 << TCP_LAST_ACK | \
		      1 << TCP_CLOSE) & 1 << (s))

#define TCPHDR_FIN 1
#define TCPHDR_SYN 2

/* The most that bpf_loop() takes (BPF_MAX_LOOPS). */
#define MAX_LOOPS (1 << 23)

#define GIB (1ull << 30)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u64);	/* cookie */
	__type(value, __u32);	/* slot */
} wanted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct control);
} controls SEC(".maps");

/* An arena is an array of blocks. It is an inner map, so that one of another
 * size can take its place. */
struct arena {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct block));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct arena);
} arenas SEC(".maps");

static __always_inline struct control *get_control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&controls, &zero);
}

static __always_inline struct block *get_block(__u32 i)
{
	__u32 zero = 0;
	void *arena = bpf_map_lookup_elem(&arenas, &zero);

	return arena ? bpf_map_lookup_elem(arena, &i) : NULL;
}

/*
 * A walk along the buffers of a queue. It lies in a map and not on the stack,
 * and the functions below are global, so that the verifier looks at each by
 * itself: together they would take it seconds. Pointers are numbers here.
 */
struct walk {
	__u64 cur;		/* sk_buff, or rb_node */
	__u64 head;		/* the end of a list */
	__u64 shinfo;		/* skb_shared_info of the buffer at hand */
	__u64 part;		/* sk_buff of its frag_list */
	__u64 src;		/* what is being copied: address, */
	__u32 len;		/* and bytes */
	__u32 seq;		/* of the next byte that is wanted */
	__u32 left;		/* bytes wanted of the queue */
	__u32 skip, todo;	/* of the buffer: bytes to pass over, bytes not seen yet */
	__u32 memory;		/* as in struct slot */
	enum failure failure;
	__u32 turn;		/* of the walk in a tree: see tree_step */
	__u32 count;		/* bytes in out_of_order_queue */
	__u64 page_base;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk);
} walks SEC(".maps");

static __always_inline struct walk *get_walk(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&walks, &zero);
}

/* Copies once into a block, if COPY_MAX bytes of it are free. */
static __always_inline int fill_block(struct block *b, struct walk *w)
{
	__u32 n = w->len, used;

	if (!b) {
		w->failure = NO_ARENA;
		return 0;
	}
	used = *(volatile __u32 *)&b->used;
	if (used > sizeof(b->data) - COPY_MAX)
		return 0;
	if (n > COPY_MAX)
		n = COPY_MAX;
	if (bpf_probe_read_kernel(b->data + used, n, (void *)w->src)) {
		w->failure = UNREADABLE;
		return 0;
	}
	b->used = used + n;
	w->src += n;
	w->len -= n;
	return 1;
}

static long copy_step(__u32 i, void *unused)
{
	struct control *ctl = get_control();
	struct walk *w = get_walk();
	struct block *b;
	__u32 next;

	if (!ctl || !w || !w->len || w->failure)
		return 1;
	if (fill_block(get_block(ctl->block), w) || w->failure)
		return 0;
	next = ctl->block + 1;
	b = get_block(next);
	if (!b) {
		w->failure = NO_ARENA;
		return 1;
	}
	b->used = 0;
	ctl->block = next;
	return 0;
}

/* Takes a piece of a buffer, all that is wanted of it. */
int take_piece(__u64 src, __u32 len)
{
	struct walk *w = get_walk();

	if (!w || w->failure)
		return 0;
	if (len > w->todo) {
		w->failure = BAD_PIECES;
		return 0;
	}
	w->todo -= len;
	if (w->skip >= len) {
		w->skip -= len;
		return 0;
	}
	w->src = src + w->skip;
	w->len = len - w->skip;
	w->skip = 0;
	/* Each turn copies COPY_MAX bytes or goes on to another block. */
	bpf_loop(2 * (w->len / COPY_MAX + 1), copy_step, NULL, 0);
	if (w->len && !w->failure)
		w->failure = NO_ARENA;
	return 0;
}

struct frag {
	__u64 page;
	__u32 len, offset;
};

static __always_inline int read_frag(__u64 shinfo, __u32 i, struct frag *f)
{
	__u64 frags = shinfo + bpf_core_field_offset(struct skb_shared_info, frags);

	if (bpf_core_type_exists(struct skb_frag)) {
		struct skb_frag *p = (void *)(frags + i * bpf_core_type_size(struct skb_frag));

		f->page = BPF_CORE_READ(p, netmem);
		f->len = BPF_CORE_READ(p, len);
		f->offset = BPF_CORE_READ(p, offset);
	} else {
		struct bio_vec *p = (void *)(frags + i * bpf_core_type_size(struct bio_vec));

		f->page = (__u64)BPF_CORE_READ(p, bv_page);
		f->len = BPF_CORE_READ(p, bv_len);
		f->offset = BPF_CORE_READ(p, bv_offset);
	}
	/* A struct page is aligned to its size. Bit 0 is NET_IOV: memory of a
	 * device. */
	return f->page && !(f->page & 63);
}

static long frag_step(__u32 i, void *unused)
{
	struct walk *w = get_walk();
	struct frag f;

	if (!w || w->failure)
		return 1;
	if (!read_frag(w->shinfo, i, &f)) {
		w->failure = FOREIGN;
		return 1;
	}
	take_piece((f.page << 6) + w->page_base + f.offset, f.len);
	return 0;
}

/* Takes what an sk_buff has itself: the linear part and the frags. */
int take_buffer(__u64 addr)
{
	struct walk *w = get_walk();
	struct sk_buff *skb = (void *)addr;
	__u32 len = BPF_CORE_READ(skb, len), paged = BPF_CORE_READ(skb, data_len);
	struct skb_shared_info *si = (void *)(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, end));

	if (!w)
		return 0;
	if (bpf_core_field_exists(skb->unreadable) && BPF_CORE_READ_BITFIELD_PROBED(skb, unreadable)) {
		w->failure = FOREIGN;
		return 0;
	}
	w->shinfo = (__u64)si;
	if (len > paged) {
		w->memory |= 1 << LINEAR;
		take_piece((__u64)BPF_CORE_READ(skb, data), len - paged);
	}
	if (paged && BPF_CORE_READ(si, nr_frags)) {
		w->memory |= 1 << PAGES;
		bpf_loop(BPF_CORE_READ(si, nr_frags), frag_step, NULL, 0);
	}
	return 0;
}

static long part_step(__u32 i, void *unused)
{
	struct walk *w = get_walk();
	struct skb_shared_info *si;
	struct sk_buff *skb;

	if (!w || !w->part || w->failure)
		return 1;
	skb = (void *)w->part;
	take_buffer((__u64)skb);
	si = (void *)w->shinfo;
	if (BPF_CORE_READ(si, frag_list)) {
		w->failure = NESTED;
		return 1;
	}
	w->part = (__u64)BPF_CORE_READ(skb, next);
	return 0;
}

/* Takes the next buffer of a queue. */
int take_skb(__u64 addr)
{
	struct walk *w = get_walk();
	struct sk_buff *skb = (void *)addr;
	struct tcp_skb_cb *cb = (void *)skb + bpf_core_field_offset(struct sk_buff, cb);
	__u32 len = BPF_CORE_READ(skb, len), skip;
	struct skb_shared_info *si;

	if (!w || !len)
		return 0;	/* a SYN or a FIN */
	skip = w->seq - (BPF_CORE_READ(cb, seq) + !!(BPF_CORE_READ(cb, tcp_flags) & TCPHDR_SYN));
	if ((__s32)skip < 0) {
		w->failure = GAP;
		return 0;
	}
	/* The first buffer may be read or acknowledged in part, and a received
	 * one may repeat bytes of the one before it. */
	if (skip >= len)
		return 0;
	if (len - skip > w->left) {
		w->failure = TOO_LONG;
		return 0;
	}
	w->seq += len - skip;
	w->left -= len - skip;
	w->skip = skip;
	w->todo = len;
	take_buffer(addr);
	si = (void *)w->shinfo;
	w->part = (__u64)BPF_CORE_READ(si, frag_list);
	if (w->part) {
		w->memory |= 1 << LIST;
		bpf_loop(MAX_LOOPS, part_step, NULL, 0);
	}
	if (w->todo && !w->failure)
		w->failure = BAD_PIECES;
	return 0;
}

static long list_step(__u32 i, void *unused)
{
	struct walk *w = get_walk();
	struct sk_buff *skb;

	if (!w || w->failure || !w->cur || w->cur == w->head)
		return 1;
	skb = (void *)w->cur;
	take_skb((__u64)skb);
	w->cur = (__u64)BPF_CORE_READ(skb, next);
	return 0;
}

static __always_inline void take_list(struct walk *w, struct sk_buff_head *list)
{
	w->head = (__u64)list;
	w->cur = (__u64)BPF_CORE_READ(list, next);
	bpf_loop(MAX_LOOPS, list_step, NULL, 0);
}

/* Goes one step in a red-black tree, in order, and returns the node if it is
 * its turn, else NULL. */
enum { TURN_DOWN, TURN_RIGHT, TURN_UP };

static __always_inline struct rb_node *tree_step(struct walk *w)
{
	struct rb_node *n = (void *)w->cur, *next;

	if (w->turn == TURN_DOWN) {
		next = BPF_CORE_READ(n, rb_left);
		if (next) {
			w->cur = (__u64)next;
			return NULL;
		}
		w->turn = TURN_RIGHT;
		return n;
	}
	if (w->turn == TURN_RIGHT) {
		next = BPF_CORE_READ(n, rb_right);
		if (next) {
			w->cur = (__u64)next;
			w->turn = TURN_DOWN;
		} else {
			w->turn = TURN_UP;
		}
		return NULL;
	}
	next = (void *)(BPF_CORE_READ(n, __rb_parent_color) & ~3ul);
	w->cur = (__u64)next;
	if (next && BPF_CORE_READ(next, rb_left) == n) {
		w->turn = TURN_RIGHT;
		return next;
	}
	return NULL;
}

static __always_inline struct sk_buff *skb_of(struct rb_node *n)
{
	return (void *)n - bpf_core_field_offset(struct sk_buff, rbnode);
}

static long sent_step(__u32 i, void *unused)
{
	struct walk *w = get_walk();
	struct rb_node *n;

	if (!w || w->failure || !w->cur)
		return 1;
	n = tree_step(w);
	if (n)
		take_skb((__u64)skb_of(n));
	return 0;
}

/* out_of_order_queue: only its length is of interest. */
static long ooo_step(__u32 i, void *unused)
{
	struct walk *w = get_walk();
	struct rb_node *n;

	if (!w || !w->cur)
		return 1;
	n = tree_step(w);
	if (n) {
		struct sk_buff *skb = skb_of(n);

		w->count += BPF_CORE_READ(skb, len);
	}
	return 0;
}

/* Begins a walk in the tree at root. */
static __always_inline void plant(struct walk *w, __u64 root)
{
	w->cur = root;
	w->turn = TURN_DOWN;
}

/* ---- calibration ---- */

struct search {
	__u64 around;		/* an address in the direct map, with the offset in its GiB of the page */
	__u64 in_page;		/* where in the page the known bytes lie */
	__u64 found;		/* address of the page */
	__u32 data;		/* index of the known bytes in block 0 */
};

#define PROOF 64	/* bytes that must agree */

static long search_step(__u32 i, struct search *s)
{
	__u64 at = s->around + (i & 1 ? -(__u64)(i / 2 + 1) : i / 2) * GIB;
	__u64 seen[PROOF / 8], known[PROOF / 8];
	struct block *b = get_block(0);
	__u32 data = s->data;
	int k;

	if (!b || data > sizeof(b->data) - PROOF)
		return 1;
	if (bpf_probe_read_kernel(seen, PROOF, (void *)(at + s->in_page)))
		return 0;
	if (bpf_probe_read_kernel(known, PROOF, b->data + data))
		return 1;
	for (k = 0; k < PROOF / 8; k++)
		if (seen[k] != known[k])
			return 0;
	s->found = at;
	return 1;
}

/*
 * Finds page_base with a send queue whose bytes are in block 0. The kernel
 * maps all memory at page_offset_base, and the struct page of it lie at
 * vmemmap_base; neither can be read here. Both are multiples of 1 GiB
 * (arch/x86/mm/kaslr.c), so that the address of a page is known up to a
 * multiple of 1 GiB from that of its struct page. The sk_buff lies in the
 * same map, at most as far as the memory is large: the search begins there.
 */
static __always_inline enum failure calibrate(struct control *ctl, struct sock *sk, __u32 snd_una)
{
	struct rb_node *root = BPF_CORE_READ(sk, tcp_rtx_queue.rb_node);
	struct sk_buff *skb = skb_of(root);
	struct tcp_skb_cb *cb = (void *)skb + bpf_core_field_offset(struct sk_buff, cb);
	struct skb_shared_info *si = (void *)(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, end));
	struct search s = {};
	struct frag f;

	ctl->page_size = bpf_core_type_size(struct page);
	if (!root || !BPF_CORE_READ(si, nr_frags) || !read_frag((__u64)si, 0, &f) || f.len < PROOF)
		return NOT_CALIBRATED;
	/* With CONFIG_SPARSEMEM_VMEMMAP the structs lie far above the memory,
	 * beyond vmalloc's range of at least 32 TiB. Without it there is no
	 * such base. */
	if (f.page < (__u64)skb + 8192 * GIB)
		return NOT_CALIBRATED;
	s.around = ((__u64)skb & ~(GIB - 1)) | ((f.page << 6) & (GIB - 1));
	s.in_page = f.offset;
	s.data = BPF_CORE_READ(cb, seq) - snd_una + BPF_CORE_READ(skb, len) - BPF_CORE_READ(skb, data_len);
	bpf_loop(2 * 65536, search_step, &s, 0);	/* 64 TiB each way: all there is with 4 level page tables */
	if (!s.found)
		return NOT_CALIBRATED;
	ctl->page_base = s.found - (f.page << 6);
	return NO_FAILURE;
}

/* ---- the socket ---- */

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

#define SK_USER_DATA_PSOCK 4	/* since 6.0 */

static __noinline int refuse(struct slot *o, enum refusal why)
{
	o->refused |= 1 << why;
	return 0;
}

/* Finds the reasons why the connection cannot be saved. */
static __always_inline void judge(struct slot *o, struct tcp_sock *tp)
{
	struct sock *sk = (void *)tp;
	struct inet_connection_sock *icsk = (void *)tp;

	if (!STATES(o->state & 15))
		refuse(o, STATE);
	if (bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp)
		refuse(o, MPTCP);
	if (BPF_CORE_READ(icsk, icsk_ulp_ops)) {
		refuse(o, ULP);
		BPF_CORE_READ_INTO(&o->ulp, icsk, icsk_ulp_ops, name);
	}
	if (bpf_core_field_exists(tp->md5sig_info) && BPF_CORE_READ(tp, md5sig_info, head.first))
		refuse(o, MD5);
	if (bpf_core_field_exists(tp->ao_info) && BPF_CORE_READ(tp, ao_info))
		refuse(o, AO);
	/* urg_data stays until the owner has read past urg_seq. */
	if (tp->urg_data && (__s32)(tp->urg_seq - o->copied_seq) >= 0)
		refuse(o, URGENT);
	if ((__s32)(tp->snd_up - o->snd_una) > 0)
		refuse(o, URGENT_SENT);
	if ((unsigned long)BPF_CORE_READ(sk, sk_user_data) & SK_USER_DATA_PSOCK)
		refuse(o, SOCKMAP);
	if (o->state == TCP_SYN_SENT && o->write_seq - o->snd_una > 1)
		refuse(o, SYN_DATA);
}

/* Tells how long the queues are, as SIOCINQ and SIOCOUTQ do, without FINs. */
static __always_inline void measure(struct slot *o)
{
	if (o->state == TCP_SYN_SENT)
		return;
	o->recv_len = o->rcv_nxt - o->copied_seq;
	if (o->sock_done && o->recv_len)
		o->recv_len--;	/* the owner has not read the end yet */
	if (o->state == TCP_CLOSE)
		return;		/* nobody will have what was not sent */
	o->send_len = o->write_seq - o->snd_una;
	if (SENT_FIN(o->state & 15) && o->send_len)
		o->send_len--;
}

/* Tells whether n more bytes fit into the arena. A block is left when less
 * than COPY_MAX bytes of it are free. */
static __always_inline int has_room(struct control *ctl, __u64 n)
{
	struct block *b = get_block(ctl->block);
	const __u32 holds = sizeof(b->data) - COPY_MAX + 1;
	__u64 room;

	if (!b || ctl->block >= ctl->blocks)
		return 0;
	room = (__u64)(ctl->blocks - ctl->block - 1) * holds;
	if (b->used < holds)
		room += holds - b->used;
	return n <= room;
}

static __always_inline enum failure take_queues(struct slot *o, struct control *ctl, struct sock *sk)
{
	struct block *b = get_block(ctl->block);
	struct walk *w = get_walk();

	if (!b || !w)
		return NO_ARENA;
	o->block = ctl->block;
	o->offset = b->used;
	w->page_base = ctl->page_base;
	w->failure = NO_FAILURE;
	w->memory = 0;
	if (o->recv_len) {
		w->seq = o->copied_seq;
		w->left = o->recv_len;
		take_list(w, &sk->sk_receive_queue);
		if (w->left && !w->failure)
			return TOO_SHORT;
	}
	if (o->send_len && !w->failure) {
		w->seq = o->snd_una;
		w->left = o->send_len;
		plant(w, (__u64)BPF_CORE_READ(sk, tcp_rtx_queue.rb_node));
		bpf_loop(MAX_LOOPS, sent_step, NULL, 0);
		take_list(w, &sk->sk_write_queue);
		if (w->left && !w->failure)
			return TOO_SHORT;
	}
	o->memory = w->memory;
	return w->failure;
}

static __always_inline enum status take_socket(struct slot *o, struct control *ctl, struct tcp_sock *tp)
{
	struct sock *sk = (void *)tp;

	o->state = sk->__sk_common.skc_state;
	o->shutdown = sk->sk_shutdown;
	o->repair = BPF_CORE_READ_BITFIELD(tp, repair);
	o->sock_done = sk->__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1;
	read_addresses(o, sk);
	read_owner(o, sk);
	read_sequence(o, tp);
	judge(o, tp);
	if (o->refused)
		return REFUSED;
	measure(o);
	if (!has_room(ctl, (__u64)o->recv_len + o->send_len))
		return NO_ROOM;
	read_negotiated(o, tp);
	read_info(o, tp);
	read_sock_options(o, sk);
	read_inet_options(o, sk);
	read_tcp_options(o, tp);
	o->failure = ctl->calibrate ? calibrate(ctl, sk, o->snd_una) : take_queues(o, ctl, sk);
	return o->failure ? FAILED : TAKEN;
}

SEC("iter/tcp")
int take(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct control *ctl;
	struct tcp_sock *tp;
	struct slot *o;
	__u64 cookie;
	__u32 *i;
	__u8 done = 1;

	if (!skc)
		return 0;
	cookie = skc->skc_cookie.counter;
	if (!cookie)
		return 0;
	i = bpf_map_lookup_elem(&wanted, &cookie);
	if (!i)
		return 0;
	ctl = get_control();
	o = bpf_map_lookup_elem(&slots, i);
	if (!ctl || !o || o->status != UNSEEN)
		return 0;
	o->begin = bpf_ktime_get_ns();
	o->cookie = cookie;
	tp = bpf_skc_to_tcp_sock(skc);
	if (tp) {
		o->status = take_socket(o, ctl, tp);
	} else {
		o->state = skc->skc_state;
		o->status = MINI;
	}
	o->end = bpf_ktime_get_ns();
	/* Output ends the reader's read(2), of one byte: the rest of the
	 * sockets need not be looked at. */
	if (--ctl->wanted == 0)
		bpf_seq_write(ctx->meta->seq, &done, sizeof(done));
	return 0;
}
