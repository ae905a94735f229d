// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory hooks of struct memcg_bpf_ops, wherever a kernel or a module offers that type: a delay
 * for allocations above the grant, protection for who is below it. The figures come per
 * cgroup from user space, by cgroup id; here they are only looked up.
 *
 * Fail safe: user space renews a lease. When it has died or hangs, nobody is delayed or
 * protected any more, and when it is gone, so is the link.
 *
 * Two tables of hooks, because an implementation may have the protection members in its type
 * and yet refuse to take them.
 */
#include "acg_kernel.h"
#include "agentcgroup_abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define LINES 8192
#define ANCESTORS_CHECKED 8

char LICENSE[] SEC("license") = "GPL";

const volatile u32 acg_abi_version = ACG_ABI_VERSION;
/* Set by the loader. */
const volatile u64 acg_page_bytes = 4096;

struct memcg_bpf_ops {
	void (*handle_cgroup_online)(struct mem_cgroup *memcg);
	void (*handle_cgroup_offline)(struct mem_cgroup *memcg);
	bool (*below_low)(struct mem_cgroup *memcg);
	bool (*below_min)(struct mem_cgroup *memcg);
	unsigned int (*get_high_delay_ms)(struct mem_cgroup *memcg);
};

/* by cgroup id */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LINES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct acg_line);
} acg_lines SEC(".maps");

/* CLOCK_MONOTONIC until which acg_lines may be acted on */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} acg_lease SEC(".maps");

/* by enum acg_hook_count */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ACG_HOOK_COUNTS);
	__type(key, u32);
	__type(value, u64);
} acg_hook_counts SEC(".maps");

static __always_inline void count(u32 what)
{
	u64 *counter = bpf_map_lookup_elem(&acg_hook_counts, &what);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline bool lease_holds(void)
{
	u32 zero = 0;
	u64 *until_ns = bpf_map_lookup_elem(&acg_lease, &zero);

	return until_ns && bpf_ktime_get_ns() < *until_ns;
}

static __always_inline u64 id_of(struct mem_cgroup *memcg)
{
	return BPF_CORE_READ(memcg, css.cgroup, kn, id);
}

static __always_inline u64 usage_bytes(struct mem_cgroup *memcg)
{
	return (u64)BPF_CORE_READ(memcg, memory.usage.counter) * acg_page_bytes;
}

/* DelayCurve.delay of policy/delay.py, which also made the table. */
static __always_inline u32 look_up(struct acg_line *line, u64 usage)
{
	u64 step;

	if (!line->step_bytes ||
	    usage <= (line->delayed ? line->stop_bytes : line->start_bytes)) {
		line->delayed = 0;
		return 0;
	}
	line->delayed = 1;
	step = (usage - line->stop_bytes) / line->step_bytes;
	if (step >= ACG_DELAY_STEPS)
		step = ACG_DELAY_STEPS - 1;
	return line->delay_ms[step & (ACG_DELAY_STEPS - 1)];
}

/* The charged memcg may lie below the one with a line: a call may make cgroups of its own. */
SEC("struct_ops/get_high_delay_ms")
unsigned int BPF_PROG(acg_high_delay_ms, struct mem_cgroup *memcg)
{
	struct mem_cgroup *at = memcg;
	struct acg_line *line = NULL;
	u32 delay_ms;

	if (!lease_holds())
		return 0;
	for (int i = 0; i < ANCESTORS_CHECKED && at; i++) {
		struct cgroup_subsys_state *parent;
		u64 id = id_of(at);

		line = bpf_map_lookup_elem(&acg_lines, &id);
		if (line)
			break;
		parent = BPF_CORE_READ(at, css.parent);
		at = parent ? (void *)parent - bpf_core_field_offset(at->css) : NULL;
	}
	if (!line)
		return 0;
	count(ACG_HOOK_ASKED);
	delay_ms = look_up(line, usage_bytes(at));
	if (delay_ms)
		count(ACG_HOOK_DELAYED);
	return delay_ms;
}

static __always_inline bool is_protected(struct mem_cgroup *memcg)
{
	u64 id = id_of(memcg);
	struct acg_line *line = bpf_map_lookup_elem(&acg_lines, &id);

	return line && lease_holds() && usage_bytes(memcg) < line->protected_bytes;
}

SEC("struct_ops/below_low")
bool BPF_PROG(acg_below_low, struct mem_cgroup *memcg)
{
	return is_protected(memcg);
}

/* Never: what even the OOM killer may not reach is for the operator to decide, in files. */
SEC("struct_ops/below_min")
bool BPF_PROG(acg_below_min, struct mem_cgroup *memcg)
{
	return false;
}

SEC("struct_ops/handle_cgroup_online")
void BPF_PROG(acg_cgroup_online, struct mem_cgroup *memcg)
{
	count(ACG_HOOK_ONLINE);
}

SEC("struct_ops/handle_cgroup_offline")
void BPF_PROG(acg_cgroup_offline, struct mem_cgroup *memcg)
{
	u64 id = id_of(memcg);

	count(ACG_HOOK_OFFLINE);
	bpf_map_delete_elem(&acg_lines, &id);
}

SEC(".struct_ops.link")
struct memcg_bpf_ops acg_protecting = {
	.handle_cgroup_online = (void *)acg_cgroup_online,
	.handle_cgroup_offline = (void *)acg_cgroup_offline,
	.below_low = (void *)acg_below_low,
	.below_min = (void *)acg_below_min,
	.get_high_delay_ms = (void *)acg_high_delay_ms,
};

SEC(".struct_ops.link")
struct memcg_bpf_ops acg_delaying = {
	.handle_cgroup_online = (void *)acg_cgroup_online,
	.handle_cgroup_offline = (void *)acg_cgroup_offline,
	.get_high_delay_ms = (void *)acg_high_delay_ms,
};
