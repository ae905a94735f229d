/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What runs and what waits: each task's and each CPU's state, charging, and the way of a cgroup
 * between the two heaps.
 */
#ifndef ACG_SCHED_RUN_H
#define ACG_SCHED_RUN_H

#include "sched_limits.h"

#define CPUS 1024
#define SLICE_NS (20 * NS_PER_MS)
/* Ends at the first tick after it: just less than one at 250 Hz. */
#define TURN_NS (3 * NS_PER_MS)
#define SHORT_TURN_NS (1 * NS_PER_MS)
#define BEHIND_NS (10 * NS_PER_MS)
#define RECLAIMED_LATELY_NS (100 * NS_PER_MS)
#define TRIES 16
#define PREEMPT_CHOICES 16
#define TIMER_FAST_NS (1 * NS_PER_MS)
#define TIMER_SLOW_NS (100 * NS_PER_MS)
#define UNPARKED_AT_ONCE 256
#define KICKED_AT_MOST 128
#define BURST_SHIFT 3

struct task {
	u32 slot;
	/* where it is counted as runnable and running, if it is */
	u32 runnable_in;
	u32 running_in;
	u32 is_express;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task);
} acg_tasks SEC(".maps");

/*
 * What runs on a CPU. paid_ns: virtual time that `paid_slot` was charged beforehand. is_followed:
 * somebody waits for this CPU outside the heap.
 */
struct cpu {
	u64 began_exec_ns;
	u64 charged_exec_ns;
	u64 paid_ns;
	u64 prepaid_ns;
	u32 paid_slot;
	u32 slot;
	u32 rank;
	u32 latency;
	u32 is_express;
	u32 is_followed;
	u32 pad[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CPUS);
	__type(key, u32);
	__type(value, struct cpu);
} acg_cpus SEC(".maps");

struct clockwork {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct clockwork);
} acg_clockwork SEC(".maps");

/* CPUs that hold waiting cgroups aside, and how often that has ended: see dispatch */
static u32 holding;
static u64 held;
static u32 timer_is_fast;

static __always_inline struct task *task_of(struct task_struct *p)
{
	return bpf_task_storage_get(&acg_tasks, p, 0, 0);
}

static __always_inline struct cpu *cpu_at(s32 cpu)
{
	u32 key = cpu;

	return bpf_map_lookup_elem(&acg_cpus, &key);
}

/* Set by the loader. */
const volatile u32 acg_cpu_count = 1;

static __always_inline void kick_idle(u32 wanted)
{
	s32 cpu;

	for (cpu = 0; cpu < KICKED_AT_MOST && cpu < (s32)acg_cpu_count && cpu < (s32)wanted; cpu++)
		scx_bpf_kick_cpu(cpu, KICK_IDLE);
}

/* Into the heap of those that wait, unless it is in one. */
__noinline int wait_for_cpu(u32 slot)
{
	struct acg_cgroup *cgroup = cgroup_at(slot);
	u64 now_ns = acg_clock_ns, waiting, latest_ns, key_ns;

	if (!cgroup || __sync_lock_test_and_set(&cgroup->queued, 1))
		return 0;
	key_ns = cgroup->key_ns;
	if (key_ns < now_ns)
		key_ns = now_ns;
	/* the least weight must not make it wait for ever */
	waiting = cgroup->runnable ?: 1;
	latest_ns = now_ns + LONGEST_WAIT_NS / waiting * acg_cpu_count;
	if (key_ns > latest_ns)
		key_ns = latest_ns;
	cgroup->key_ns = key_ns;
	heap_push(WAITING, key_ns, slot);
	return 0;
}

static __always_inline void start_timer(void)
{
	struct clockwork *clockwork;
	u32 zero = 0;

	if (__sync_lock_test_and_set(&timer_is_fast, 1))
		return;
	clockwork = bpf_map_lookup_elem(&acg_clockwork, &zero);
	if (clockwork)
		bpf_timer_start(&clockwork->timer, TIMER_FAST_NS, 0);
}

/* A cgroup that was taken out of the heap and may not run: it stays `queued`. */
__noinline int park(u32 slot, u64 now_ns, u64 until_ns)
{
	struct acg_cgroup *cgroup = cgroup_at(slot);
	u64 waits_ns;

	if (!cgroup)
		return 0;
	/* not longer than blocked_until holds it back */
	waits_ns = LONGEST_WAIT_NS / (cgroup->runnable ?: 1) + TIMER_FAST_NS;
	cgroup->parked_ns = now_ns;
	cgroup->is_gated = gate_until(cgroup->rank, now_ns) == until_ns;
	__sync_fetch_and_add(cgroup->is_gated ? &cgroup->counts.gated_count :
						&cgroup->counts.throttled_count, 1);
	if (until_ns > cgroup->served_ns + waits_ns)
		until_ns = cgroup->served_ns + waits_ns;
	heap_push(PARKED, until_ns, slot);
	start_timer();
	return 0;
}

static __always_inline void unpark(u32 slot, u64 now_ns)
{
	struct acg_cgroup *cgroup = cgroup_at(slot);

	if (!cgroup)
		return;
	__sync_fetch_and_add(cgroup->is_gated ? &cgroup->counts.gated_ns :
						&cgroup->counts.throttled_ns,
			     now_ns - cgroup->parked_ns);
	cgroup->queued = 0;
	wait_for_cpu(slot);
}

/* What ran since the last charge: the cgroup's virtual time, the task's, cpu.max, credit. */
static __always_inline void charge(struct task_struct *p, struct cpu *cpu)
{
	u64 exec_ns = p->se.sum_exec_runtime, used_ns = exec_ns - cpu->charged_exec_ns, cost_ns;
	struct acg_cgroup *cgroup = cgroup_at(cpu->slot);

	cpu->charged_exec_ns = exec_ns;
	if (!cgroup || !used_ns)
		return;
	cost_ns = virtual_ns(cgroup, cpu->slot, used_ns);
	if (cost_ns <= cpu->prepaid_ns) {
		cpu->prepaid_ns -= cost_ns;
	} else {
		__sync_fetch_and_add(&cgroup->key_ns, cost_ns - cpu->prepaid_ns);
		cpu->prepaid_ns = 0;
	}
	set_vtime(p, p->scx.dsq_vtime + used_ns * DEFAULT_WEIGHT / (p->scx.weight ?: 1));
	if (acg_limited)
		spend_quota(cpu->slot, used_ns);
	if (cpu->is_express) {
		cgroup->credit_ns -= used_ns;
		__sync_fetch_and_add(&cgroup->counts.express_ns, used_ns);
	}
	if (acg_reads_limits) {
		u64 now_ns = bpf_ktime_get_ns();

		if (now_ns - cgroup->limits_read_ns > LIMITS_READ_NS) {
			cgroup->limits_read_ns = now_ns;
			read_limits((u64)BPF_CORE_READ(p, sched_task_group), cpu->slot);
		}
	}
}

#endif
