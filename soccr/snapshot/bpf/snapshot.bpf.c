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
#include "calibrate.h"
#include "fields.h"

char LICENSE[] SEC("license") = "GPL";

/* enum of <net/tcp_states.h>. */
enum {
	TCP_ESTABLISHED = 1, TCP_SYN_SENT, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_TIME_WAIT,
	TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_LISTEN, TCP_CLOSING, TCP_NEW_SYN_RECV,
};

/* States that can be saved. */
#define STATES(s) ((1 << TCP_ESTABLISHED | 1 << TCP_SYN_SENT | 1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | \
		    1 << TCP_CLOSE | 1 << TCP_CLOSE_WAIT | 1 << TCP_LAST_ACK | 1 << TCP_CLOSING) & 1 << (s))
/* States in which our FIN has a sequence number. */
#define SENT_FIN(s) ((1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | 1 << TCP_CLOSING | 1 << TCP_LAST_ACK | \
		      1 << TCP_CLOSE) & 1 << (s))

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
