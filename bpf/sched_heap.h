/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two binary heaps of cgroups: those that wait for a CPU, by virtual time, and those that must
 * not have one before a time. A cgroup is in at most one of them, once: `queued` says so.
 */
#ifndef ACG_SCHED_HEAP_H
#define ACG_SCHED_HEAP_H

#include "sched_kernel.h"

/* a power of two, and one for each slot of acg_cgroups */
#define HEAP_ENTRIES 16384
#define HEAP_DEPTH 14
#define HEAP_MASK (HEAP_ENTRIES - 1)

enum heaps {
	WAITING = 0,
	PARKED = 1,
	HEAPS = 2,
};

struct heap_entry {
	u64 key;
	u32 slot;
	u32 pad;
};

/*
 * cursor: where a walk through the heap is, in memory and not in a register, because the verifier
 * would follow every path that it knows the places of.
 */
struct heap {
	struct bpf_spin_lock lock;
	u32 count;
	volatile u32 cursor;
	u32 pad;
	struct heap_entry at[HEAP_ENTRIES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HEAPS);
	__type(key, u32);
	__type(value, struct heap);
} acg_heaps SEC(".maps");

static __always_inline u32 heap_count(u32 which)
{
	struct heap *heap = bpf_map_lookup_elem(&acg_heaps, &which);

	return heap ? heap->count : 0;
}

/* Everything from here to the unlock is loads and stores: no call is allowed in between. */
__noinline int heap_push(u32 which, u64 key, u32 slot)
{
	struct heap *heap = bpf_map_lookup_elem(&acg_heaps, &which);
	u32 at, up;

	if (!heap)
		return -1;
	bpf_spin_lock(&heap->lock);
	at = heap->count;
	if (at >= HEAP_ENTRIES) {
		bpf_spin_unlock(&heap->lock);
		return -1;
	}
	heap->count = at + 1;
	heap->cursor = at;
	for (int depth = 0; depth < HEAP_DEPTH; depth++) {
		at = heap->cursor & HEAP_MASK;
		if (!at)
			break;
		up = (at - 1) / 2 & HEAP_MASK;
		if (heap->at[up].key <= key)
			break;
		heap->at[at] = heap->at[up];
		heap->cursor = up;
	}
	at = heap->cursor & HEAP_MASK;
	heap->at[at].key = key;
	heap->at[at].slot = slot;
	bpf_spin_unlock(&heap->lock);
	return 0;
}

/* The first one, if its key is at most `limit`; false if there is none. */
__noinline int heap_pop(u32 which, u64 limit, struct heap_entry *first)
{
	struct heap *heap = bpf_map_lookup_elem(&acg_heaps, &which);
	struct heap_entry last;
	u32 count, at, child, right;

	if (!heap || !first)
		return false;
	bpf_spin_lock(&heap->lock);
	count = heap->count;
	if (!count || heap->at[0].key > limit) {
		bpf_spin_unlock(&heap->lock);
		return false;
	}
	first->key = heap->at[0].key;
	first->slot = heap->at[0].slot;
	count--;
	heap->count = count;
	last.key = heap->at[count & HEAP_MASK].key;
	last.slot = heap->at[count & HEAP_MASK].slot;
	heap->cursor = 0;
	for (int depth = 0; depth < HEAP_DEPTH; depth++) {
		at = heap->cursor & HEAP_MASK;
		child = 2 * at + 1;
		if (child >= count)
			break;
		right = (child + 1) & HEAP_MASK;
		child &= HEAP_MASK;
		if (right < count && heap->at[right].key < heap->at[child].key)
			child = right;
		if (last.key <= heap->at[child].key)
			break;
		heap->at[at] = heap->at[child];
		heap->cursor = child;
	}
	at = heap->cursor & HEAP_MASK;
	heap->at[at].key = last.key;
	heap->at[at].slot = last.slot;
	bpf_spin_unlock(&heap->lock);
	return true;
}

#endif
