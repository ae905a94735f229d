/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory signals for the scheduler, without a step through user space: a task that reclaims, or
 * goes over its grant, closes the gate for lower ranks, and its own turns get shorter.
 */
#ifndef ACG_SCHED_GATE_H
#define ACG_SCHED_GATE_H

#include "sched_run.h"

/* Which cgroup pays: the task's, or for a kernel thread that does its work, the memcg's. */
static __always_inline u32 who_reclaims(struct mem_cgroup *memcg)
{
	struct task_struct *current = bpf_get_current_task_btf();
	struct task *task;

	if (current->flags & PF_KTHREAD)
		return slot_of(BPF_CORE_READ(memcg, css.cgroup, kn, id));
	task = task_of(current);
	return task ? task->slot : NO_SLOT;
}

static __always_inline int pressure(struct mem_cgroup *memcg)
{
	u64 now_ns = bpf_ktime_get_ns();
	u32 slot = who_reclaims(memcg);
	struct acg_cgroup *cgroup = cgroup_at(slot);

	if (!cgroup)
		return 0;
	cgroup->reclaimed_ns = now_ns;
	refresh_policy(cgroup, slot, now_ns);
	if (cgroup->rank <= ACG_LOW || !close_gates(cgroup->rank, now_ns))
		return 0;
	for (u32 cpu = 0; cpu < KICKED_AT_MOST && cpu < acg_cpu_count; cpu++) {
		struct cpu *at = cpu_at(cpu);

		if (at && at->rank != ACG_UNMANAGED && at->rank < cgroup->rank)
			scx_bpf_kick_cpu(cpu, KICK_PREEMPT);
	}
	return 0;
}

SEC("fentry/try_to_free_mem_cgroup_pages")
int BPF_PROG(acg_sched_reclaims, struct mem_cgroup *memcg)
{
	return pressure(memcg);
}

SEC("fentry/reclaim_high")
int BPF_PROG(acg_sched_over_high, struct mem_cgroup *memcg)
{
	return pressure(memcg);
}

#endif
