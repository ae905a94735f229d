/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The scheduler's picture of the cgroup tree: weights, who is active, and what share of the
 * host that makes. A slot is a place in acg_cgroups and the number of the cgroup's dispatch
 * queue; a slot outlives its cgroup and is used again.
 *
 * Shares are those of a flattened tree: a cgroup's part of its parent's, among the siblings
 * that are active. Tasks in a cgroup that also has children count as children of weight 100
 * each, as the fair class counts them.
 */
#ifndef ACG_SCHED_CGROUPS_H
#define ACG_SCHED_CGROUPS_H

#include "sched_heap.h"

#define SLOTS HEAP_ENTRIES
#define NO_SLOT 0
#define MAX_LEVELS 32

/* the whole host, and the least that a cgroup can have of it */
#define WHOLE (1ULL << 30)
#define LEAST (WHOLE >> 20)
#define DEFAULT_WEIGHT 100
/* as the fair class has it: weights in 1024ths of a default one, and that of cpu.idle */
#define WEIGHT_ONE 1024
#define WEIGHT_IDLE 3
#define LONGEST_CHARGE_NS (4 * NS_PER_S)

struct acg_cgroup {
	u64 id;
	/* virtual time: what it had, divided by its share */
	u64 key_ns;
	/* virtual time of its own tasks among each other */
	u64 clock_ns;
	u64 share;
	u64 share_generation;
	u64 child_weight;
	u32 parent;
	u32 level;
	u32 weight;
	/* cpu.weight, whatever cpu.idle says */
	u32 file_weight;
	u32 is_idle;
	u32 counted_weight;
	u32 active_children;
	u32 runnable;
	u32 running;
	u32 queued;
	/* of acg_sched_policy, as of policy_generation */
	u32 latency;
	u32 rank;
	u32 is_gated;
	u64 policy_generation;
	u64 served_ns;
	u64 parked_ns;
	u64 reclaimed_ns;
	u64 burst_ns;
	s64 credit_ns;
	u64 credit_at_ns;
	s64 quota_left_ns;
	u64 quota_ns;
	u64 period_ns;
	u64 quota_burst_ns;
	u64 period_end_ns;
	u64 limits_read_ns;
	struct acg_sched_counts counts;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, u32);
	__type(value, struct acg_cgroup);
} acg_cgroups SEC(".maps");

/* by cgroup id */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * SLOTS);
	__type(key, u64);
	__type(value, u32);
} acg_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, SLOTS);
	__type(value, u32);
} acg_free_slots SEC(".maps");

struct tree {
	struct bpf_spin_lock lock;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct tree);
} acg_tree SEC(".maps");

/* A share is computed again when this has changed. */
u64 acg_generation = 1;
/* Virtual time of the host: where the cgroup began that was served last. */
u64 acg_clock_ns;
u32 acg_used_slots;
/* cgroups with a cpu.max: where there are none, nobody looks for them */
u32 acg_limited;
/* who is parked may have been by a cpu.max that holds no more */
u32 acg_limits_changed;

static __always_inline struct acg_cgroup *cgroup_at(u32 slot)
{
	return slot ? bpf_map_lookup_elem(&acg_cgroups, &slot) : NULL;
}

static __always_inline u32 slot_of(u64 cgroup_id)
{
	u32 *slot = bpf_map_lookup_elem(&acg_slots, &cgroup_id);

	return slot ? *slot : NO_SLOT;
}

static __always_inline u32 kernel_weight(u32 weight, bool is_idle)
{
	if (is_idle)
		return WEIGHT_IDLE;
	return weight * WEIGHT_ONE / DEFAULT_WEIGHT ?: 1;
}

/*
 * Tell the parents whether the cgroup is active and with what weight. What was told before is
 * kept beside, so that calls that race end in the right sums.
 */
__noinline int settle(u32 slot)
{
	u32 zero = 0;
	struct tree *tree = bpf_map_lookup_elem(&acg_tree, &zero);

	if (!tree)
		return 0;
	for (int level = 0; level < MAX_LEVELS; level++) {
		struct acg_cgroup *cgroup = cgroup_at(slot), *parent;
		u32 weight, before;

		if (!cgroup)
			break;
		slot = cgroup->parent;
		parent = cgroup_at(slot);
		if (!parent)
			break;
		bpf_spin_lock(&tree->lock);
		before = cgroup->counted_weight;
		weight = cgroup->runnable || cgroup->active_children ? cgroup->weight : 0;
		if (weight != before) {
			cgroup->counted_weight = weight;
			parent->child_weight += (u64)weight - before;
			parent->active_children += !!weight - !!before;
		}
		bpf_spin_unlock(&tree->lock);
		if (weight == before)
			break;
		__sync_fetch_and_add(&acg_generation, 1);
	}
	return 0;
}

__noinline u64 compute_share(u32 slot)
{
	struct acg_cgroup *cgroup = cgroup_at(slot);
	u64 share = WHOLE, own;

	if (!cgroup)
		return WHOLE;
	if (cgroup->active_children) {
		own = (u64)(cgroup->runnable ?: 1) * WEIGHT_ONE;
		share = share * own / (own + cgroup->child_weight);
	}
	for (int level = 0; level < MAX_LEVELS; level++) {
		struct acg_cgroup *parent = cgroup_at(cgroup->parent);
		u64 weight = cgroup->counted_weight ?: cgroup->weight, sum;

		if (!parent)
			break;
		sum = parent->child_weight + (u64)parent->runnable * WEIGHT_ONE;
		if (!cgroup->counted_weight)
			sum += weight;
		share = share * weight / (sum ?: 1);
		cgroup = parent;
	}
	return share < LEAST ? LEAST : share;
}

/* In parts of WHOLE. */
static __always_inline u64 share_of(struct acg_cgroup *cgroup, u32 slot)
{
	u64 generation = acg_generation;

	if (cgroup->share_generation != generation) {
		cgroup->share = compute_share(slot);
		cgroup->share_generation = generation;
	}
	return cgroup->share ?: LEAST;
}

static __always_inline u64 virtual_ns(struct acg_cgroup *cgroup, u32 slot, u64 used_ns)
{
	if (used_ns > LONGEST_CHARGE_NS)
		used_ns = LONGEST_CHARGE_NS;
	return used_ns * WHOLE / share_of(cgroup, slot);
}

#endif
