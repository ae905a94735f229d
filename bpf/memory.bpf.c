// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory pressure of watched cgroups, the moment the kernel notices it. Where the kernel has
 * __memcg_memory_event, that one hook tells high, max, oom and oom_kill; elsewhere three
 * others tell most of it. The memcg is always the argument's: reclaim also runs from a
 * kworker, so the current task says nothing.
 *
 * A kind repeats for a cgroup at most once in acg_gap_ns; oom and oom_kill always pass.
 */
#define ACG_RING_BYTES (1 << 18)
#include "acg_common.h"

#define PRESSURE_KEYS 4096
#define ANCESTORS_CHECKED 8

const volatile u64 acg_gap_ns = 10000000;

struct pressure_key {
	u64 cgroup_id;
	u32 kind;
	u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PRESSURE_KEYS);
	__type(key, struct pressure_key);
	__type(value, u64);
} acg_last_ns SEC(".maps");

static __always_inline bool too_soon(u64 cgroup_id, u32 kind)
{
	struct pressure_key key = { .cgroup_id = cgroup_id, .kind = kind };
	u64 now_ns = bpf_ktime_get_ns(), *last_ns;

	if (kind == ACG_MEMORY_OOM || kind == ACG_MEMORY_OOM_KILL)
		return false;
	last_ns = bpf_map_lookup_elem(&acg_last_ns, &key);
	if (last_ns && now_ns - *last_ns < acg_gap_ns)
		return true;
	bpf_map_update_elem(&acg_last_ns, &key, &now_ns, BPF_ANY);
	return false;
}

static __always_inline int report(struct mem_cgroup *memcg, u32 kind)
{
	struct cgroup *cgroup = BPF_CORE_READ(memcg, css.cgroup);
	u64 cgroup_id = acg_cgroup_id(cgroup);
	struct acg_memory_record *record;

	if (!acg_cgroup_is_watched(cgroup) || too_soon(cgroup_id, kind))
		return 0;
	record = bpf_ringbuf_reserve(&acg_ring, sizeof(*record), 0);
	if (!record) {
		acg_count_drop(ACG_MEMORY);
		return 0;
	}
	acg_stamp(&record->header, ACG_MEMORY, cgroup_id);
	record->usage_pages = BPF_CORE_READ(memcg, memory.usage.counter);
	record->high_pages = BPF_CORE_READ(memcg, memory.high);
	record->max_pages = BPF_CORE_READ(memcg, memory.max);
	record->kind = kind;
	record->pad = 0;
	bpf_ringbuf_submit(record, 0);
	return 0;
}

SEC("fentry/__memcg_memory_event")
int BPF_PROG(acg_memory_event, struct mem_cgroup *memcg, enum memcg_memory_event event)
{
	u32 number = event, kind;

	if (number == bpf_core_enum_value(enum memcg_memory_event, MEMCG_HIGH))
		kind = ACG_MEMORY_HIGH;
	else if (number == bpf_core_enum_value(enum memcg_memory_event, MEMCG_MAX))
		kind = ACG_MEMORY_MAX;
	else if (number == bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM))
		kind = ACG_MEMORY_OOM;
	else if (number == bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM_KILL))
		kind = ACG_MEMORY_OOM_KILL;
	else
		return 0;
	return report(memcg, kind);
}

/* Called with the charged memcg; the ones over their line are it or its ancestors. */
SEC("fentry/reclaim_high")
int BPF_PROG(acg_reclaim_high, struct mem_cgroup *memcg)
{
	struct mem_cgroup *over = memcg;

	for (int i = 0; i < ANCESTORS_CHECKED && over; i++) {
		struct cgroup_subsys_state *parent;

		if ((u64)BPF_CORE_READ(over, memory.usage.counter) > BPF_CORE_READ(over, memory.high))
			report(over, ACG_MEMORY_HIGH);
		parent = BPF_CORE_READ(over, css.parent);
		/* the subsystem state leads struct mem_cgroup wherever it is laid out */
		over = parent ? (void *)parent - bpf_core_field_offset(over->css) : NULL;
	}
	return 0;
}

/* A charge that met the cap reclaims with its size on top; everything else is plain reclaim. */
SEC("fentry/try_to_free_mem_cgroup_pages")
int BPF_PROG(acg_try_to_free, struct mem_cgroup *memcg, unsigned long nr_pages)
{
	u64 usage_pages = BPF_CORE_READ(memcg, memory.usage.counter);

	if (usage_pages + nr_pages > BPF_CORE_READ(memcg, memory.max))
		return report(memcg, ACG_MEMORY_MAX);
	return report(memcg, ACG_MEMORY_RECLAIM);
}

SEC("fentry/mem_cgroup_out_of_memory")
int BPF_PROG(acg_memcg_oom, struct mem_cgroup *memcg)
{
	return report(memcg, ACG_MEMORY_OOM);
}

SEC("fexit/try_charge_memcg")
int BPF_PROG(acg_charge_failed, struct mem_cgroup *memcg, gfp_t gfp_mask, unsigned int nr_pages,
	     int result)
{
	return result ? report(memcg, ACG_MEMORY_CHARGE_FAILED) : 0;
}
