/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * calibrate.h: finds out where the kernel has a page mapped.
 */
#ifndef SNAPSHOT_CALIBRATE_H
#define SNAPSHOT_CALIBRATE_H

#include "walk.h"

#define GIB (1ull << 30)

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

#endif
