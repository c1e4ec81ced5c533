/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * walk.h: copies the bytes of a queue into the arena, buffer by buffer.
 */
#ifndef SNAPSHOT_WALK_H
#define SNAPSHOT_WALK_H

#include "maps.h"

#define TCPHDR_SYN 2

/* Bytes that are enough for struct sk_buff and for skb_shared_info up to
 * frags: 232 and 48 in most kernels. */
#define SKB_MAX 512
#define INFO_MAX 128

/*
 * A walk along the buffers of a queue. It lies in a map and not on the stack,
 * and the functions below are global, so that the verifier looks at each by
 * itself: together they would take it seconds. Pointers are numbers here.
 *
 * skb and info are copies of the structures at hand: reading memory of the
 * kernel costs some 30 ns, however little it is, and a queue may have
 * thousands of buffers.
 */
struct walk {
	__u64 skb[SKB_MAX / 8];
	__u64 info[INFO_MAX / 8]; /* skb_shared_info up to frags */
	__u64 cur;		/* sk_buff, or rb_node */
	__u64 next;		/* sk_buff behind it, in a list */
	__u64 head;		/* the end of a list */
	__u64 shinfo;		/* where info is a copy of */
	__u64 part;		/* sk_buff of its frag_list */
	__u64 src;		/* what is being copied: address, */
	__u32 len;		/* and bytes */
	__u32 seq;		/* of the next byte that is wanted */
	__u32 left;		/* bytes wanted of the queue */
	__u32 skip, todo;	/* of the buffer: bytes to pass over, bytes not seen yet */
	__u32 memory;		/* as in struct slot */
	enum failure failure;
	__u32 turn;		/* of the walk in a tree: see tree_step */
	__u64 node[3];		/* the same */
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
	struct control *ctl = get_control();
	struct walk *w = get_walk();

	if (!ctl || !w || w->failure)
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
	/* Most pieces fit into the block at hand as they are. */
	if (fill_block(get_block(ctl->block), w) && !w->len)
		return 0;
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

	__u64 copy[4];

	if (bpf_core_type_exists(struct skb_frag)) {
		const __u32 size = bpf_core_type_size(struct skb_frag);
		struct skb_frag *p = (void *)copy;

		if (size > sizeof(copy) || bpf_probe_read_kernel(copy, size, (void *)(frags + i * size)))
			return 0;
		f->page = p->netmem;
		f->len = p->len;
		f->offset = p->offset;
	} else {
		const __u32 size = bpf_core_type_size(struct bio_vec);
		struct bio_vec *p = (void *)copy;

		if (size > sizeof(copy) || bpf_probe_read_kernel(copy, size, (void *)(frags + i * size)))
			return 0;
		f->page = (__u64)p->bv_page;
		f->len = p->bv_len;
		f->offset = p->bv_offset;
	}
	/* A struct page is aligned to its size. Bit 0 is NET_IOV: memory of a
	 * device. */
	return f->page && !(f->page & 63);
}

static __always_inline void take_frag(struct walk *w, __u32 i)
{
	struct frag f;

	if (read_frag(w->shinfo, i, &f))
		take_piece((f.page << 6) + w->page_base + f.offset, f.len);
	else
		w->failure = FOREIGN;
}

static long frag_step(__u32 i, void *unused)
{
	struct walk *w = get_walk();

	if (!w || w->failure)
		return 1;
	take_frag(w, i + 1);
	return 0;
}

/* Makes an sk_buff the one at hand. */
static __always_inline struct sk_buff *load_skb(struct walk *w, __u64 addr)
{
	struct sk_buff *skb = (void *)w->skb;
	const __u32 skb_size = bpf_core_type_size(struct sk_buff);
	const __u32 info_size = bpf_core_field_offset(struct skb_shared_info, frags);

	if (skb_size > SKB_MAX || info_size > INFO_MAX || bpf_probe_read_kernel(skb, skb_size, (void *)addr)) {
		w->failure = UNREADABLE;
		return NULL;
	}
	w->shinfo = (__u64)skb->head + skb->end;
	if (bpf_probe_read_kernel(w->info, info_size, (void *)w->shinfo)) {
		w->failure = UNREADABLE;
		return NULL;
	}
	return skb;
}

/* Takes what the sk_buff at hand has itself: the linear part and the frags. */
int take_buffer(void)
{
	struct walk *w = get_walk();
	struct skb_shared_info *si;
	struct sk_buff *skb;

	if (!w)
		return 0;
	skb = (void *)w->skb;
	si = (void *)w->info;
	if (bpf_core_field_exists(skb->unreadable) && BPF_CORE_READ_BITFIELD(skb, unreadable)) {
		w->failure = FOREIGN;
		return 0;
	}
	if (skb->len > skb->data_len) {
		w->memory |= 1 << LINEAR;
		take_piece((__u64)skb->data, skb->len - skb->data_len);
	}
	if (skb->data_len && si->nr_frags) {
		w->memory |= 1 << PAGES;
		take_frag(w, 0);
		if (si->nr_frags > 1)
			bpf_loop(si->nr_frags - 1, frag_step, NULL, 0);
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
	skb = load_skb(w, w->part);
	if (!skb)
		return 1;
	si = (void *)w->info;
	if (si->frag_list) {
		w->failure = NESTED;
		return 1;
	}
	w->part = (__u64)skb->next;
	take_buffer();
	return 0;
}

/* Takes the next buffer of a queue, and tells in w->next which one is behind
 * it in a list. */
int take_skb(__u64 addr)
{
	struct walk *w = get_walk();
	struct skb_shared_info *si;
	struct tcp_skb_cb *cb;
	struct sk_buff *skb;
	__u32 len, skip;

	if (!w)
		return 0;
	skb = load_skb(w, addr);
	if (!skb)
		return 0;
	w->next = (__u64)skb->next;
	len = skb->len;
	if (!len)
		return 0;	/* a SYN or a FIN */
	cb = (void *)skb->cb;
	skip = w->seq - (cb->seq + !!(cb->tcp_flags & TCPHDR_SYN));
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
	si = (void *)w->info;
	w->part = (__u64)si->frag_list;
	take_buffer();
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

	if (!w || w->failure || !w->cur || w->cur == w->head)
		return 1;
	take_skb(w->cur);
	w->cur = w->next;
	return 0;
}

static __always_inline void take_list(struct walk *w, struct sk_buff_head *list)
{
	w->head = (__u64)list;
	w->cur = (__u64)BPF_CORE_READ(list, next);
	bpf_loop(MAX_LOOPS, list_step, NULL, 0);
}

/* Goes one step in a red-black tree, in order, and returns the node if it is
 * its turn, else NULL. When the turn is to the right or up, w->node is a copy
 * of the node. */
enum { TURN_DOWN, TURN_RIGHT, TURN_UP };

static __always_inline int load_node(struct walk *w)
{
	const __u32 size = bpf_core_type_size(struct rb_node);

	if (size <= sizeof(w->node) && !bpf_probe_read_kernel(w->node, size, (void *)w->cur))
		return 1;
	w->failure = UNREADABLE;
	return 0;
}

static __always_inline struct rb_node *tree_step(struct walk *w)
{
	struct rb_node *node = (void *)w->node;
	__u64 child;

	if (w->turn == TURN_DOWN) {
		if (!load_node(w))
			return NULL;
		if (node->rb_left) {
			w->cur = (__u64)node->rb_left;
			return NULL;
		}
		w->turn = TURN_RIGHT;
		return (void *)w->cur;
	}
	if (w->turn == TURN_RIGHT) {
		if (node->rb_right) {
			w->cur = (__u64)node->rb_right;
			w->turn = TURN_DOWN;
		} else {
			w->turn = TURN_UP;
		}
		return NULL;
	}
	child = w->cur;
	w->cur = node->__rb_parent_color & ~3ul;
	if (!w->cur || !load_node(w) || (__u64)node->rb_left != child)
		return NULL;
	w->turn = TURN_RIGHT;
	return (void *)w->cur;
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

	if (!w || !w->cur || w->failure)
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
