/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * snapshot.h: what the program and package snapshot share: the maps and what
 * lies in them. bpf2go makes the Go types from it.
 */
#ifndef SNAPSHOT_SHARED_H
#define SNAPSHOT_SHARED_H

#define MAX_SLOTS 512			/* sockets in one pass */
#define BLOCK_SIZE (1u << 20)		/* bytes, with the header */
#define COPY_MAX (32u << 10)		/* bytes in one copy */

/* Why a socket is not saved. The numbers are bits of slot.refused. */
enum refusal {
	STATE,
	MPTCP,
	ULP,
	MD5,
	AO,
	URGENT,		/* received and not read */
	URGENT_SENT,	/* sent and not acknowledged */
	SOCKMAP,	/* its data goes through BPF */
	SYN_DATA,	/* data with the SYN, SYN_SENT */
};

/* What became of a slot. */
enum status {
	UNSEEN,
	TAKEN,
	MINI,	/* a time-wait or request socket: skc_state says which */
	REFUSED,	/* see slot.refused */
	NO_ROOM,	/* the arena has not room enough for the queues */
	FAILED,	/* see slot.failure */
};

/* Why the bytes of a queue could not be taken. */
enum failure {
	NO_FAILURE,
	UNREADABLE,		/* an address could not be read */
	FOREIGN,		/* bytes that lie in no page of the host's memory */
	NESTED,		/* a frag_list in a frag_list */
	GAP,		/* a buffer begins after where the last one ended */
	TOO_LONG,		/* more bytes than the sequence numbers tell */
	TOO_SHORT,		/* fewer */
	BAD_PIECES,		/* the pieces of a buffer are not as long as it */
	NO_ARENA,
	NOT_CALIBRATED,
};

/* Where bytes of a queue can be. A test sees by it what it tested. */
enum memory {
	LINEAR,		/* the sk_buff's own */
	PAGES,		/* its frags */
	LIST,		/* its frag_list */
};

/* One socket. Numbers are in host order and as the kernel has them. */
struct slot {
	__u64 cookie;
	__u64 begin, end;	/* when the socket was looked at, ns of CLOCK_MONOTONIC */
	__u64 inode, netns;
	__u64 flags;		/* 1 << SOCK_* */
	__u64 inet_flags;	/* INET_FLAGS_* of 6.6 */
	__s64 rcvtimeo, sndtimeo, lingertime;	/* jiffies */
	__u64 max_pacing_rate;

	enum status status;
	enum failure failure;
	__u32 refused;		/* 1 << enum refusal */
	__u32 block, offset;	/* where its bytes begin in the arena: recv, then send */
	__u32 recv_len, send_len;	/* bytes, without FINs */
	__u32 memory;		/* 1 << enum memory, all that bytes were in */

	__u8 local[16], remote[16];	/* IPv4: the first four bytes */
	__u16 local_port, remote_port, family;
	__u8 state, shutdown;
	__s32 bound_dev_if;
	__u32 uid;
	__u8 repair, sock_done, has_filter, has_ip_options, has_policy, pad[3];

	__u32 rcv_nxt, copied_seq, write_seq, snd_una, snd_nxt;
	__u32 snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup;
	__u32 tcpi_options, mss_clamp, snd_wscale, rcv_wscale;
	__u32 tsoffset, usec_ts;	/* usec_ts: 0, 1, or 2 where the kernel has none */
	__u32 snd_cwnd, snd_ssthresh, srtt_us, mdev_us, retransmits;
	__u32 ooo_bytes, errors, sock_err, tsflags;

	/* options, by the name of the field */
	__u32 reuse, reuseport, v6only, mark, priority, userlocks, ll_usec;
	__s32 rcvbuf, sndbuf, rcvlowat, peek_off;
	__s32 uc_ttl, hop_limit;
	__u32 tos, tclass, min_ttl, min_hopcount, pmtudisc, pmtudisc6;
	__u32 nonagle, thin_lto, recvmsg_inq;
	__u32 keepalive_time, keepalive_intvl, keepalive_probes;	/* jiffies, jiffies, number */
	__u32 syn_retries, user_timeout, user_mss, notsent_lowat, window_clamp;
	__s32 linger2;		/* jiffies */

	char congestion[16], ulp[16];
};

/* What a pass is about, and how far it is. */
struct control {
	__u64 page_base;	/* address of a page: (struct page * << 6) + page_base */
	__u32 calibrate;	/* 1: find page_base with the first slot's send queue */
	__u32 page_size;	/* sizeof(struct page), told by a calibration */
	__u32 wanted;		/* slots that are still unseen */
	__u32 block, blocks;	/* the block that is being filled, and how many there are */
	__u32 pad;
};

/* A block of the arena. */
struct block {
	__u32 used;		/* bytes of data */
	__u32 pad[15];
	__u8 data[BLOCK_SIZE - 64];
};

#endif
