/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * maps.h: the maps of the program, and how it gets at them.
 */
#ifndef SNAPSHOT_MAPS_H
#define SNAPSHOT_MAPS_H

#include "snapshot.h"

/* The most that bpf_loop() takes (BPF_MAX_LOOPS). */
#define MAX_LOOPS (1 << 23)

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

#endif
