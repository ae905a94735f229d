/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a wakeup may do beside joining those that wait: go on in its waker's place, wake an idle
 * CPU, preempt.
 */
#ifndef ACG_SCHED_WAKE_H
#define ACG_SCHED_WAKE_H

#include "sched_run.h"

/*
 * The waker is of the same cgroup and nobody else waits: who it wakes comes after it, without a
 * way through the heap. For where no other CPU would take it: it may not run elsewhere, or the
 * waker says that it is about to sleep.
 */
static __always_inline bool follows_waker(struct task_struct *p, struct task *task)
{
	s32 here = bpf_get_smp_processor_id();
	struct cpu *at = cpu_at(here);

	if (!at || at->slot != task->slot || at->is_followed || heap_count(WAITING) ||
	    !bpf_cpumask_test_cpu(here, p->cpus_ptr))
		return false;
	at->is_followed = 1;
	return true;
}

static __always_inline void wake_up_for(struct task_struct *p, u64 enq_flags)
{
	s32 cpu;

	/* on wakeup a CPU was looked for before, unless there is only one */
	if (enq_flags & ENQ_WAKEUP)
		return;
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, KICK_IDLE);
}

/* A batch call steps back for anybody else who wakes. */
static __always_inline void preempt_batch(struct task_struct *p, struct acg_cgroup *cgroup)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct cpu *at = cpu_at(cpu);

	if (at && at->latency == ACG_BATCH && cgroup->latency != ACG_BATCH)
		scx_bpf_kick_cpu(cpu, KICK_PREEMPT);
}

/*
 * Who wakes preempts if its cgroup is interactive and has credit, or, whatever its class, has had
 * so much less than its share that it hardly ran: it gets even by that, so its share bounds it.
 */
static __always_inline bool goes_at_once(struct task *task, struct acg_cgroup *cgroup,
					 u64 enq_flags, u64 now_ns)
{
	task->is_express = 0;
	if (!(enq_flags & ENQ_WAKEUP))
		return false;
	if (cgroup->latency == ACG_INTERACTIVE && has_credit(cgroup, now_ns)) {
		task->is_express = 1;
		__sync_fetch_and_add(&cgroup->counts.express_count, 1);
		return true;
	}
	if (cgroup->latency == ACG_BATCH || cgroup->running ||
	    cgroup->key_ns + BEHIND_NS * acg_cpu_count > acg_clock_ns)
		return false;
	cgroup->key_ns = acg_clock_ns;
	return true;
}

#endif
