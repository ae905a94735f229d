/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every program shares: which cgroups are watched, the ring buffer, and the count of
 * what did not fit into it. Included once by each *.bpf.c.
 *
 * A task or memcg counts when its cgroup lies in a watched root. acg_roots holds the roots'
 * ids, acg_levels[0] a bit for every depth at which there is one, so that a process elsewhere
 * on the host costs one or two lookups.
 */
#ifndef ACG_COMMON_H
#define ACG_COMMON_H

#include "acg_kernel.h"
#include "agentcgroup_abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define ACG_MAX_LEVEL 32
#define ACG_MAX_ROOTS 1024

char LICENSE[] SEC("license") = "GPL";

/* Read by the loader: the records' version and, by being named here, their layout. */
const volatile u32 acg_abi_version = ACG_ABI_VERSION;
const union acg_record *acg_layouts __attribute__((unused));

/* Bits by enum acg_record_type: not sent at all; sent without waking the reader. */
const volatile u32 acg_muted;
const volatile u32 acg_quiet;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ACG_MAX_ROOTS);
	__type(key, u64);
	__type(value, u32);
} acg_roots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} acg_levels SEC(".maps");

/* by enum acg_record_type */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ACG_RECORD_TYPES);
	__type(key, u32);
	__type(value, u64);
} acg_dropped SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, ACG_RING_BYTES);
} acg_ring SEC(".maps");

static __always_inline u64 acg_watched_levels(void)
{
	u32 zero = 0;
	u64 *levels = bpf_map_lookup_elem(&acg_levels, &zero);

	return levels ? *levels : 0;
}

static __always_inline bool acg_is_root(u64 cgroup_id)
{
	return cgroup_id && bpf_map_lookup_elem(&acg_roots, &cgroup_id);
}

static __always_inline bool acg_current_is_watched(void)
{
	u64 levels = acg_watched_levels();

	for (int level = 0; level < ACG_MAX_LEVEL; level++) {
		if (!(levels >> level))
			break;
		if ((levels >> level & 1) && acg_is_root(bpf_get_current_ancestor_cgroup_id(level)))
			return true;
	}
	return false;
}

static __always_inline u64 acg_cgroup_id(struct cgroup *cgroup)
{
	return cgroup ? BPF_CORE_READ(cgroup, kn, id) : 0;
}

static __always_inline bool acg_cgroup_is_watched(struct cgroup *cgroup)
{
	u64 levels = acg_watched_levels();
	int deepest;

	if (!cgroup || !levels)
		return false;
	deepest = BPF_CORE_READ(cgroup, level);
	for (int level = 0; level < ACG_MAX_LEVEL; level++) {
		/* the array's length differs by kernel: relocate its start, step by hand */
		void *slot = (void *)cgroup + bpf_core_field_offset(cgroup->ancestors) +
			     level * sizeof(void *);
		struct cgroup *ancestor = NULL;

		if (level > deepest || !(levels >> level))
			break;
		if (!(levels >> level & 1))
			continue;
		if (!bpf_probe_read_kernel(&ancestor, sizeof(ancestor), slot) &&
		    acg_is_root(acg_cgroup_id(ancestor)))
			return true;
	}
	return false;
}

static __always_inline void acg_stamp(struct acg_header *header, u32 type, u64 cgroup_id)
{
	header->t_ns = bpf_ktime_get_ns();
	header->cgroup_id = cgroup_id;
	header->type = type;
	header->pad = 0;
}

/* The kernel's string in the record of perf's tracepoint. */
static __always_inline const char *
acg_exec_filename(struct trace_event_raw_sched_process_exec *context)
{
	return (const char *)context + (BPF_CORE_READ(context, __data_loc_filename) & 0xffff);
}

/* How many bytes of the arguments of the running task are in `argv` now, of ACG_ARGV_LEN. */
static __always_inline u32 acg_read_argv(struct task_struct *task, char *argv, u32 *cut)
{
	unsigned long start = BPF_CORE_READ(task, mm, arg_start);
	u64 len = BPF_CORE_READ(task, mm, arg_end) - start;

	*cut = len > ACG_ARGV_LEN;
	/* one check, on the very register that the helper gets: the verifier tracks no copies */
	barrier_var(len);
	if (len > ACG_ARGV_LEN)
		len = ACG_ARGV_LEN;
	/* the arguments were just written by this task, so they are resident */
	return bpf_probe_read_user(argv, len, (void *)start) ? 0 : len;
}

static __always_inline void acg_count_drop(u32 type)
{
	u64 *dropped = bpf_map_lookup_elem(&acg_dropped, &type);

	if (dropped)
		__sync_fetch_and_add(dropped, 1);
}

#endif
