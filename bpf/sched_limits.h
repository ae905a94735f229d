/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What may keep a cgroup from running for a while: cpu.max at any level, which the kernel does
 * not enforce for a scheduler of its own, and the memory gate. Both end by themselves.
 */
#ifndef ACG_SCHED_LIMITS_H
#define ACG_SCHED_LIMITS_H

#include "sched_cgroups.h"

#define RUNTIME_INF (~0ULL)
#define LIMITS_READ_NS (100 * NS_PER_MS)
#define CREDIT_MAX_NS (20 * NS_PER_MS)
#define CREDIT_DIVISOR 4
/*
 * The kernel ejects a scheduler when a task waits for 30 s, for whatever reason: a cgroup with
 * n tasks that wait gets a turn each so often, and what it takes then it owes.
 */
#define LONGEST_WAIT_NS (12 * NS_PER_S)
#define FULL_AFTER_PERIODS 64

/* by cgroup id */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct acg_sched_policy);
} acg_policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct acg_sched_control);
} acg_control SEC(".maps");

/* Closed for lower ranks until until_ns; not to be closed again before open_until_ns. */
struct gate {
	u64 until_ns;
	u64 open_until_ns;
	u64 closed_ns;
	u64 closed_count;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ACG_RANKS);
	__type(key, u32);
	__type(value, struct gate);
} acg_gates SEC(".maps");

/* Set by the loader where the kernel has no callbacks for cpu.max and cpu.idle. */
const volatile bool acg_reads_limits;

static __always_inline struct acg_sched_control *control(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&acg_control, &zero);
}

__noinline int find_policy(u32 slot)
{
	struct acg_cgroup *cgroup = cgroup_at(slot), *at = cgroup;
	struct acg_sched_policy *policy = NULL;
	u32 latency = ACG_STANDARD, rank = ACG_UNMANAGED;

	for (int level = 0; level < MAX_LEVELS && at; level++) {
		policy = bpf_map_lookup_elem(&acg_policies, &at->id);
		if (policy)
			break;
		at = cgroup_at(at->parent);
	}
	if (policy && policy->latency < ACG_LATENCIES)
		latency = policy->latency;
	if (policy && policy->rank < ACG_RANKS)
		rank = policy->rank;
	if (cgroup) {
		cgroup->latency = latency;
		cgroup->rank = rank;
	}
	return 0;
}

/* latency and rank are right after this; without a lease every cgroup is like any other. */
static __always_inline void refresh_policy(struct acg_cgroup *cgroup, u32 slot, u64 now_ns)
{
	struct acg_sched_control *at = control();

	if (!at || now_ns >= at->lease_until_ns) {
		cgroup->latency = ACG_STANDARD;
		cgroup->rank = ACG_UNMANAGED;
		cgroup->policy_generation = 0;
	} else if (cgroup->policy_generation != at->policy_generation + 1) {
		find_policy(slot);
		cgroup->policy_generation = at->policy_generation + 1;
	}
}

static __always_inline void set_quota(struct acg_cgroup *cgroup, u64 period_ns, u64 quota_ns,
				      u64 burst_ns)
{
	if (cgroup->quota_ns == quota_ns && cgroup->period_ns == period_ns &&
	    cgroup->quota_burst_ns == burst_ns)
		return;
	if (!!cgroup->quota_ns != !!quota_ns)
		__sync_fetch_and_add(&acg_limited, quota_ns ? 1 : -1);
	acg_limits_changed = 1;
	cgroup->period_ns = period_ns;
	cgroup->quota_burst_ns = burst_ns;
	cgroup->quota_left_ns = quota_ns;
	cgroup->period_end_ns = bpf_ktime_get_ns() + period_ns;
	cgroup->quota_ns = quota_ns;
}

/* cpu.max and cpu.idle of a group and of all above it, from the kernel's own figures. */
__noinline int read_limits(u64 address, u32 slot)
{
	struct task_group *group = (void *)address;

	for (int level = 0; level < MAX_LEVELS; level++) {
		struct acg_cgroup *cgroup = cgroup_at(slot);
		u64 quota_ns;
		u32 idle;

		if (!cgroup || !group)
			break;
		quota_ns = BPF_CORE_READ(group, cfs_bandwidth.quota);
		set_quota(cgroup, BPF_CORE_READ(group, cfs_bandwidth.period),
			  quota_ns == RUNTIME_INF ? 0 : quota_ns,
			  BPF_CORE_READ(group, cfs_bandwidth.burst));
		idle = BPF_CORE_READ(group, idle) != 0;
		if (idle != cgroup->is_idle) {
			cgroup->is_idle = idle;
			cgroup->weight = kernel_weight(cgroup->file_weight, idle);
			settle(slot);
		}
		group = BPF_CORE_READ(group, parent);
		slot = cgroup->parent;
	}
	return 0;
}

/* A period's end adds its quota; what was not used is kept up to the burst. */
static __always_inline void refill(struct acg_cgroup *cgroup, u64 now_ns)
{
	u64 end_ns = cgroup->period_end_ns, periods, quota_ns = cgroup->quota_ns;
	s64 full_ns = quota_ns + cgroup->quota_burst_ns, left_ns, add_ns;

	if (now_ns < end_ns || !cgroup->period_ns)
		return;
	periods = (now_ns - end_ns) / cgroup->period_ns + 1;
	if (__sync_val_compare_and_swap(&cgroup->period_end_ns, end_ns,
					end_ns + periods * cgroup->period_ns) != end_ns)
		return;
	left_ns = cgroup->quota_left_ns;
	add_ns = full_ns - left_ns;
	if (periods < FULL_AFTER_PERIODS && (s64)(periods * quota_ns) < add_ns)
		add_ns = periods * quota_ns;
	__sync_fetch_and_add(&cgroup->quota_left_ns, add_ns);
}

/* When all levels have something left of their cpu.max; 0: now. */
__noinline u64 quota_until(u32 slot, u64 now_ns)
{
	u64 until_ns = 0;

	for (int level = 0; level < MAX_LEVELS; level++) {
		struct acg_cgroup *cgroup = cgroup_at(slot);
		u64 periods, free_ns;

		if (!cgroup)
			break;
		if (cgroup->quota_ns) {
			refill(cgroup, now_ns);
			if (cgroup->quota_left_ns <= 0) {
				periods = (u64)(-cgroup->quota_left_ns) / cgroup->quota_ns;
				free_ns = cgroup->period_end_ns + periods * cgroup->period_ns;
				if (free_ns > until_ns)
					until_ns = free_ns;
			}
		}
		slot = cgroup->parent;
	}
	return until_ns;
}

__noinline int spend_quota(u32 slot, u64 used_ns)
{
	for (int level = 0; level < MAX_LEVELS; level++) {
		struct acg_cgroup *cgroup = cgroup_at(slot);

		if (!cgroup)
			break;
		if (cgroup->quota_ns)
			__sync_fetch_and_add(&cgroup->quota_left_ns, -(s64)used_ns);
		slot = cgroup->parent;
	}
	return 0;
}

static __always_inline u64 gate_until(u32 rank, u64 now_ns)
{
	struct acg_sched_control *at;
	struct gate *gate;

	if (!rank)
		return 0;
	gate = bpf_map_lookup_elem(&acg_gates, &rank);
	if (!gate || now_ns >= gate->until_ns)
		return 0;
	at = control();
	return at && now_ns >= at->gate_paused_until_ns ? gate->until_ns : 0;
}

/*
 * Until when nothing of this cgroup may run; 0: it may. refresh_policy before. One that has
 * waited too long for the kernel's patience may, whatever keeps it.
 */
__noinline u64 blocked_until(u32 slot, u64 now_ns)
{
	struct acg_cgroup *cgroup = cgroup_at(slot);
	u64 until_ns, gated_ns;

	if (!cgroup)
		return 0;
	until_ns = acg_limited ? quota_until(slot, now_ns) : 0;
	gated_ns = gate_until(cgroup->rank, now_ns);
	if (gated_ns > until_ns)
		until_ns = gated_ns;
	if (until_ns && cgroup->runnable &&
	    now_ns - cgroup->served_ns > LONGEST_WAIT_NS / cgroup->runnable)
		return 0;
	return until_ns;
}

/* Time that an interactive cgroup may run as soon as it wakes. */
static __always_inline bool has_credit(struct acg_cgroup *cgroup, u64 now_ns)
{
	s64 credit_ns = cgroup->credit_ns + (s64)((now_ns - cgroup->credit_at_ns) / CREDIT_DIVISOR);

	cgroup->credit_at_ns = now_ns;
	cgroup->credit_ns = credit_ns < (s64)CREDIT_MAX_NS ? credit_ns : (s64)CREDIT_MAX_NS;
	return cgroup->credit_ns > 0;
}

/* Lower ranks are closed out, unless they are or have just been. True if that is new. */
static __always_inline bool close_gates(u32 protected_rank, u64 now_ns)
{
	struct acg_sched_control *at = control();
	bool closed = false;

	if (!at || !at->gate_closed_ns || now_ns >= at->lease_until_ns ||
	    now_ns < at->gate_paused_until_ns)
		return false;
	for (u32 rank = ACG_LOW; rank < ACG_RANKS; rank++) {
		u32 key = rank;
		struct gate *gate = bpf_map_lookup_elem(&acg_gates, &key);

		if (!gate || rank >= protected_rank || now_ns < gate->open_until_ns)
			continue;
		gate->closed_ns = now_ns;
		gate->until_ns = now_ns + at->gate_closed_ns;
		gate->open_until_ns = gate->until_ns + at->gate_open_ns;
		__sync_fetch_and_add(&gate->closed_count, 1);
		closed = true;
	}
	return closed;
}

#endif
