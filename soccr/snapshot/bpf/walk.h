/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * walk.h: copies the bytes of a queue into the arena, buffer by buffer.
 */
#ifndef SNAPSHOT_WALK_H
#define SNAPSHOT_WALK_H

#include "maps.h"

#define TCPHDR_SYN 2

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

#endif
