// SPDX-License-Identifier: GPL-2.0-only
/*
 * A scheduler for the whole host: CPU time by cpu.weight over the whole cgroup tree, cpu.max and
 * cpu.idle at every level, which the kernel leaves to its own scheduler, and for tool calls a
 * latency class and a gate that holds lower priorities while a higher one reclaims memory.
 *
 * Each cgroup has a dispatch queue of its tasks by their virtual time; the cgroups that wait are
 * in a heap by theirs. A CPU that looks for work takes the first cgroup and of it the first
 * task. What a task ran is charged at every tick and when it stops.
 */
#include "sched_run.h"
#include "sched_gate.h"
#include "sched_wake.h"
#include "sched_lifecycle.h"

char LICENSE[] SEC("license") = "GPL";

const volatile u32 acg_abi_version = ACG_ABI_VERSION;
/* What user space writes and reads: sizes and numbers. */
const struct acg_sched_policy *acg_policy_layout __attribute__((unused));
const enum acg_latency *acg_latency_numbers __attribute__((unused));
const enum acg_rank *acg_rank_numbers __attribute__((unused));
const struct acg_sched_control *acg_control_layout __attribute__((unused));

SEC("struct_ops/acg_select_cpu")
s32 BPF_PROG(acg_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct task *task = task_of(p);
	u32 slot = task ? task->slot : NO_SLOT;
	struct acg_cgroup *cgroup = cgroup_at(slot);
	u64 now_ns = bpf_ktime_get_ns();
	bool is_idle = false;
	struct cpu *at;
	s32 cpu;

	if (!task || !cgroup)
		return prev_cpu;
	refresh_policy(cgroup, slot, now_ns);
	if (blocked_until(slot, now_ns))
		return prev_cpu;
	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle) {
		cgroup->served_ns = now_ns;
		insert(p, DSQ_LOCAL, SLICE_NS, 0);
		return cpu;
	}
	if (cgroup->latency != ACG_INTERACTIVE) {
		if (!(wake_flags & WAKE_SYNC) || !follows_waker(p, task))
			return cpu;
		cgroup->served_ns = now_ns;
		insert(p, DSQ_LOCAL, SLICE_NS, 0);
		return bpf_get_smp_processor_id();
	}
	/* it will preempt: not one of its kind, if there is a choice */
	at = cpu_at(cpu);
	if (!at || at->latency != ACG_INTERACTIVE)
		return cpu;
	for (u32 other = 0; other < PREEMPT_CHOICES && other < acg_cpu_count; other++) {
		at = cpu_at(other);
		if (at && at->latency != ACG_INTERACTIVE && bpf_cpumask_test_cpu(other, p->cpus_ptr))
			return other;
	}
	return cpu;
}

SEC("struct_ops/acg_enqueue")
void BPF_PROG(acg_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task *task = task_of(p);
	u32 slot = task ? task->slot : NO_SLOT;
	struct acg_cgroup *cgroup = cgroup_at(slot);
	u64 now_ns = bpf_ktime_get_ns(), vtime_ns = p->scx.dsq_vtime, longest_ns;
	bool at_once, follows;

	if (!task || !cgroup || (p->flags & PF_KTHREAD && p->nr_cpus_allowed == 1)) {
		insert(p, DSQ_LOCAL, TURN_NS, enq_flags);
		return;
	}
	refresh_policy(cgroup, slot, now_ns);
	at_once = goes_at_once(task, cgroup, enq_flags, now_ns);
	follows = !at_once && enq_flags & ENQ_WAKEUP && p->nr_cpus_allowed == 1 &&
		  follows_waker(p, task);
	if ((at_once || follows || enq_flags & ENQ_LAST) && !blocked_until(slot, now_ns)) {
		cgroup->served_ns = now_ns;
		insert(p, DSQ_LOCAL, SLICE_NS, at_once ? enq_flags | ENQ_PREEMPT : enq_flags);
		return;
	}
	/* a sleeper gains nothing (a thousand that wake at once would have two turns each before the
	 * others' next), and who ran on for want of a tick waits for one turn at most */
	if (vtime_ns < cgroup->clock_ns)
		vtime_ns = cgroup->clock_ns;
	longest_ns = cgroup->clock_ns + TURN_NS * DEFAULT_WEIGHT / (p->scx.weight ?: 1);
	if (vtime_ns > longest_ns)
		vtime_ns = longest_ns;
	if (!cgroup->queued)
		cgroup->served_ns = now_ns;
	scx_bpf_dsq_insert_vtime(p, slot, SLICE_NS, vtime_ns, enq_flags);
	wait_for_cpu(slot);
	if (enq_flags & ENQ_WAKEUP)
		preempt_batch(p, cgroup);
	else
		wake_up_for(p, enq_flags);
}

/* The cgroup has given up a task: what it will take is charged now, so that CPUs that look
 * at the same time do not all choose it. */
__noinline int prepay(u32 slot, s32 cpu)
{
	struct acg_cgroup *cgroup = cgroup_at(slot);
	struct cpu *at = cpu_at(cpu);
	u64 cost_ns;

	if (!at || !cgroup)
		return 0;
	cost_ns = virtual_ns(cgroup, slot, cgroup->burst_ns ?: TURN_NS);
	at->paid_slot = slot;
	at->paid_ns = cost_ns;
	__sync_fetch_and_add(&cgroup->key_ns, cost_ns);
	return 0;
}

/*
 * It was taken out of the heap: back into it if it has somebody who waits, also one who is not in
 * its queue yet. `moved`: how many are on their way to this CPU. True if it was.
 */
__noinline int put_back(u32 slot, u32 moved)
{
	struct acg_cgroup *cgroup = cgroup_at(slot);

	if (!cgroup)
		return 0;
	cgroup->queued = 0;
	if (scx_bpf_dsq_nr_queued(slot) <= 0 && cgroup->runnable <= cgroup->running + moved)
		return false;
	wait_for_cpu(slot);
	__sync_fetch_and_add(&held, 1);
	return true;
}

enum taken {
	TOOK_ONE,
	TOOK_NONE,
	TOOK_OTHERS_FIRST,
	KEEP_RUNNING,
};

/* Try the first cgroup that waits. `kept`: the one whose task may just go on running. */
static __always_inline enum taken take(s32 cpu, u64 now_ns, u32 kept, u64 kept_key_ns, u32 *aside)
{
	struct heap_entry first = {};
	struct acg_cgroup *cgroup;
	u64 until_ns;

	if (!heap_pop(WAITING, ~0ULL, &first))
		return TOOK_NONE;
	cgroup = cgroup_at(first.slot);
	if (!cgroup)
		return TOOK_OTHERS_FIRST;
	if (cgroup->key_ns > first.key) {
		/* its tasks on other CPUs have run since */
		heap_push(WAITING, cgroup->key_ns, first.slot);
		return TOOK_OTHERS_FIRST;
	}
	refresh_policy(cgroup, first.slot, now_ns);
	until_ns = blocked_until(first.slot, now_ns);
	if (until_ns > now_ns) {
		park(first.slot, now_ns, until_ns);
		return TOOK_OTHERS_FIRST;
	}
	if (kept != NO_SLOT && kept != first.slot && kept_key_ns < first.key) {
		heap_push(WAITING, first.key, first.slot);
		return KEEP_RUNNING;
	}
	if (scx_bpf_dsq_move_to_local(first.slot)) {
		if (acg_clock_ns < first.key)
			acg_clock_ns = first.key;
		cgroup->served_ns = now_ns;
		prepay(first.slot, cpu);
		put_back(first.slot, 1);
		return TOOK_ONE;
	}
	/* for other CPUs only, or not yet there: others first */
	*aside = first.slot;
	return TOOK_OTHERS_FIRST;
}

SEC("struct_ops/acg_dispatch")
void BPF_PROG(acg_dispatch, s32 cpu, struct task_struct *prev)
{
	u32 aside[TRIES] = {}, kept = NO_SLOT;
	u64 now_ns = bpf_ktime_get_ns(), kept_key_ns = 0, seen = held;
	enum taken taken = TOOK_NONE;
	struct acg_cgroup *cgroup;
	struct iter_num turns;
	struct task *task;
	int *turn;

	if (prev && prev->scx.flags & TASK_QUEUED) {
		task = task_of(prev);
		kept = task ? task->slot : NO_SLOT;
		cgroup = cgroup_at(kept);
		if (cgroup && !blocked_until(kept, now_ns))
			kept_key_ns = cgroup->key_ns;
		else
			kept = NO_SLOT;
	}
	__sync_fetch_and_add(&holding, 1);
	bpf_iter_num_new(&turns, 0, TRIES);
	while ((turn = bpf_iter_num_next(&turns))) {
		taken = take(cpu, now_ns, kept, kept_key_ns, &aside[*turn & (TRIES - 1)]);
		if (taken != TOOK_OTHERS_FIRST)
			break;
	}
	bpf_iter_num_destroy(&turns);
	for (int at = 0; at < TRIES; at++)
		if (aside[at] != NO_SLOT)
			seen += put_back(aside[at], 0);
	__sync_fetch_and_sub(&holding, 1);
	if (taken == TOOK_ONE)
		return;
	if (kept != NO_SLOT) {
		cgroup = cgroup_at(kept);
		if (cgroup)
			cgroup->served_ns = now_ns;
		set_slice(prev, SLICE_NS);
		return;
	}
	/* what another CPU held aside, this one may have missed */
	if (holding || held != seen)
		scx_bpf_kick_cpu(cpu, 0);
}

SEC("struct_ops/acg_running")
void BPF_PROG(acg_running, struct task_struct *p)
{
	struct cpu *cpu = cpu_at(scx_bpf_task_cpu(p));
	struct task *task = task_of(p);
	struct acg_cgroup *cgroup;

	if (!cpu || !task)
		return;
	cgroup = cgroup_at(task->slot);
	if (!cgroup)
		return;
	cpu->slot = task->slot;
	cpu->began_exec_ns = cpu->charged_exec_ns = p->se.sum_exec_runtime;
	cpu->rank = cgroup->rank;
	cpu->latency = cgroup->latency;
	cpu->is_express = task->is_express;
	cpu->is_followed = 0;
	task->is_express = 0;
	cpu->prepaid_ns = 0;
	if (cpu->paid_slot == task->slot) {
		cpu->prepaid_ns = cpu->paid_ns;
		cpu->paid_slot = NO_SLOT;
	} else if (!cgroup->queued && cgroup->key_ns < acg_clock_ns) {
		cgroup->key_ns = acg_clock_ns;
	}
	if (cgroup->clock_ns < p->scx.dsq_vtime)
		cgroup->clock_ns = p->scx.dsq_vtime;
	task->running_in = task->slot;
	__sync_fetch_and_add(&cgroup->running, 1);
}

SEC("struct_ops/acg_stopping")
void BPF_PROG(acg_stopping, struct task_struct *p, bool runnable)
{
	struct cpu *cpu = cpu_at(scx_bpf_task_cpu(p));
	struct task *task = task_of(p);
	struct acg_cgroup *cgroup;
	u64 ran_ns;

	if (!cpu || !task)
		return;
	cgroup = cgroup_at(task->running_in);
	task->running_in = NO_SLOT;
	if (!cgroup)
		return;
	charge(p, cpu);
	if (cpu->prepaid_ns)
		__sync_fetch_and_sub(&cgroup->key_ns, cpu->prepaid_ns);
	cpu->prepaid_ns = 0;
	ran_ns = p->se.sum_exec_runtime - cpu->began_exec_ns;
	if (ran_ns > TURN_NS)
		ran_ns = TURN_NS;
	cgroup->burst_ns += ran_ns >> BURST_SHIFT;
	cgroup->burst_ns -= cgroup->burst_ns >> BURST_SHIFT;
	cpu->slot = NO_SLOT;
	cpu->rank = ACG_UNMANAGED;
	cpu->latency = ACG_STANDARD;
	__sync_fetch_and_sub(&cgroup->running, 1);
}

SEC("struct_ops/acg_tick")
void BPF_PROG(acg_tick, struct task_struct *p)
{
	struct cpu *cpu = cpu_at(scx_bpf_task_cpu(p));
	struct acg_cgroup *cgroup;
	u64 now_ns, turn_ns;

	if (!cpu)
		return;
	cgroup = cgroup_at(cpu->slot);
	if (!cgroup)
		return;
	charge(p, cpu);
	now_ns = bpf_ktime_get_ns();
	if (blocked_until(cpu->slot, now_ns)) {
		set_slice(p, 0);
		return;
	}
	if (!heap_count(WAITING) && !cpu->is_followed)
		return;
	turn_ns = now_ns - cgroup->reclaimed_ns < RECLAIMED_LATELY_NS ? SHORT_TURN_NS : TURN_NS;
	if (p->se.sum_exec_runtime - cpu->began_exec_ns >= turn_ns ||
	    (cpu->is_express && cgroup->credit_ns <= 0))
		set_slice(p, 0);
}

SEC("struct_ops/acg_runnable")
void BPF_PROG(acg_runnable, struct task_struct *p, u64 enq_flags)
{
	struct task *task = task_of(p);
	struct acg_cgroup *cgroup = task ? cgroup_at(task->slot) : NULL;

	if (!task || !cgroup)
		return;
	task->runnable_in = task->slot;
	if (!__sync_fetch_and_add(&cgroup->runnable, 1))
		settle(task->slot);
	if (cgroup->active_children)
		__sync_fetch_and_add(&acg_generation, 1);
}

SEC("struct_ops/acg_quiescent")
void BPF_PROG(acg_quiescent, struct task_struct *p, u64 deq_flags)
{
	struct task *task = task_of(p);
	u32 slot = task ? task->runnable_in : NO_SLOT;
	struct acg_cgroup *cgroup = cgroup_at(slot);

	if (!task || !cgroup)
		return;
	task->runnable_in = NO_SLOT;
	if (__sync_fetch_and_sub(&cgroup->runnable, 1) == 1)
		settle(slot);
	if (cgroup->active_children)
		__sync_fetch_and_add(&acg_generation, 1);
}

#define ACG_OPS                                                                                    \
	.select_cpu = (void *)acg_select_cpu, .enqueue = (void *)acg_enqueue,                       \
	.dispatch = (void *)acg_dispatch, .tick = (void *)acg_tick,                                 \
	.runnable = (void *)acg_runnable, .running = (void *)acg_running,                           \
	.stopping = (void *)acg_stopping, .quiescent = (void *)acg_quiescent,                       \
	.init_task = (void *)acg_init_task, .enable = (void *)acg_enable,                           \
	.cgroup_init = (void *)acg_cgroup_init, .cgroup_exit = (void *)acg_cgroup_exit,             \
	.cgroup_move = (void *)acg_cgroup_move, .cgroup_set_weight = (void *)acg_set_weight,        \
	.init = (void *)acg_init, .exit = (void *)acg_end, .flags = SCX_OPS_ENQ_LAST,               \
	.timeout_ms = 30000, .name = "agentcgroup"

/* One of these is loaded: the first whose members the kernel has. */
SEC(".struct_ops.link")
struct sched_ext_ops acg_told_all = {
	ACG_OPS,
	.cgroup_set_bandwidth = (void *)acg_set_bandwidth,
	.cgroup_set_idle = (void *)acg_set_idle,
};

SEC(".struct_ops.link")
struct sched_ext_ops acg_told_weights = {
	ACG_OPS,
};
