/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cgroups and tasks come, move and go; figures in files change; the timer; beginning and end.
 */
#ifndef ACG_SCHED_LIFECYCLE_H
#define ACG_SCHED_LIFECYCLE_H

#include "sched_run.h"

#define ENOMEM 12

struct acg_sched_exit acg_exit;

SEC("struct_ops/acg_init_task")
s32 BPF_PROG(acg_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task *task = bpf_task_storage_get(&acg_tasks, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!task)
		return -ENOMEM;
	task->slot = slot_of(args->cgroup->kn->id);
	return 0;
}

static __always_inline void join(struct task_struct *p, u32 slot)
{
	struct acg_cgroup *cgroup = cgroup_at(slot);

	if (cgroup)
		set_vtime(p, cgroup->clock_ns);
}

SEC("struct_ops/acg_enable")
void BPF_PROG(acg_enable, struct task_struct *p)
{
	struct task *task = task_of(p);

	if (task)
		join(p, task->slot);
}

SEC("struct_ops/acg_cgroup_move")
void BPF_PROG(acg_cgroup_move, struct task_struct *p, struct cgroup *from, struct cgroup *to)
{
	struct task *task = task_of(p);

	if (!task)
		return;
	task->slot = slot_of(to->kn->id);
	join(p, task->slot);
}

/* A slot with a dispatch queue; none is left when there are more cgroups than slots. */
static __always_inline u32 take_slot(void)
{
	u32 slot = NO_SLOT;

	if (!bpf_map_pop_elem(&acg_free_slots, &slot))
		return slot;
	slot = __sync_add_and_fetch(&acg_used_slots, 1);
	if (slot >= SLOTS || scx_bpf_create_dsq(slot, -1))
		return NO_SLOT;
	return slot;
}

/* NULL for a cgroup that is being made: it has no figures but the default ones. */
static __always_inline struct task_group *group_of(struct cgroup *cgrp)
{
	u32 controller = bpf_core_enum_value(enum cgroup_subsys_id, cpu_cgrp_id);
	struct cgroup_subsys_state *state = NULL;
	/* the array's length differs by kernel: relocate its start, step by hand */
	void *at = (void *)cgrp + bpf_core_field_offset(cgrp->subsys) +
		   controller * sizeof(void *);

	bpf_probe_read_kernel(&state, sizeof(state), at);
	/* the subsystem state leads struct task_group */
	return (struct task_group *)state;
}

/*
 * Never fails for want of a slot, because then the cgroup could not be made: such a one is
 * scheduled as a part of its parent.
 */
SEC("struct_ops.s/acg_cgroup_init")
s32 BPF_PROG(acg_cgroup_init, struct cgroup *cgrp, struct scx_cgroup_init_args *args)
{
	u64 id = cgrp->kn->id, parent_id = BPF_CORE_READ(cgrp, self.parent, cgroup, kn, id);
	u32 parent = parent_id ? slot_of(parent_id) : NO_SLOT, slot = take_slot();
	struct acg_cgroup *cgroup = cgroup_at(slot);

	if (!cgroup) {
		bpf_map_update_elem(&acg_slots, &id, &parent, BPF_ANY);
		return 0;
	}
	cgroup->id = id;
	cgroup->parent = parent;
	cgroup->level = cgrp->level;
	cgroup->key_ns = acg_clock_ns;
	cgroup->file_weight = args->weight;
	cgroup->weight = kernel_weight(args->weight, false);
	cgroup->counted_weight = 0;
	cgroup->child_weight = 0;
	cgroup->active_children = 0;
	cgroup->share_generation = 0;
	cgroup->is_idle = 0;
	cgroup->runnable = 0;
	cgroup->running = 0;
	cgroup->policy_generation = 0;
	cgroup->rank = ACG_UNMANAGED;
	cgroup->latency = ACG_STANDARD;
	cgroup->reclaimed_ns = 0;
	cgroup->credit_ns = CREDIT_MAX_NS;
	cgroup->credit_at_ns = bpf_ktime_get_ns();
	cgroup->served_ns = cgroup->credit_at_ns;
	cgroup->quota_ns = 0;
	cgroup->limits_read_ns = 0;
	__builtin_memset(&cgroup->counts, 0, sizeof(cgroup->counts));
	if (bpf_map_update_elem(&acg_slots, &id, &slot, BPF_ANY))
		return -ENOMEM;
	read_limits((u64)group_of(cgrp), slot);
	return 0;
}

SEC("struct_ops.s/acg_cgroup_exit")
void BPF_PROG(acg_cgroup_exit, struct cgroup *cgrp)
{
	u64 id = cgrp->kn->id;
	u32 slot = slot_of(id);
	struct acg_cgroup *cgroup = cgroup_at(slot);

	bpf_map_delete_elem(&acg_slots, &id);
	if (!cgroup || cgroup->id != id)
		return;
	set_quota(cgroup, 0, 0, 0);
	cgroup->id = 0;
	bpf_map_push_elem(&acg_free_slots, &slot, 0);
}

/* Of a cgroup that has a slot of its own. */
static __always_inline struct acg_cgroup *own_slot(struct cgroup *cgrp, u32 *slot)
{
	struct acg_cgroup *cgroup;

	*slot = slot_of(cgrp->kn->id);
	cgroup = cgroup_at(*slot);
	return cgroup && cgroup->id == cgrp->kn->id ? cgroup : NULL;
}

SEC("struct_ops/acg_set_weight")
void BPF_PROG(acg_set_weight, struct cgroup *cgrp, u32 weight)
{
	u32 slot;
	struct acg_cgroup *cgroup = own_slot(cgrp, &slot);

	if (!cgroup)
		return;
	cgroup->file_weight = weight;
	cgroup->weight = kernel_weight(weight, cgroup->is_idle);
	settle(slot);
}

SEC("struct_ops/acg_set_idle")
void BPF_PROG(acg_set_idle, struct cgroup *cgrp, bool idle)
{
	u32 slot;
	struct acg_cgroup *cgroup = own_slot(cgrp, &slot);

	if (!cgroup)
		return;
	cgroup->is_idle = idle;
	cgroup->weight = kernel_weight(cgroup->file_weight, idle);
	settle(slot);
}

SEC("struct_ops/acg_set_bandwidth")
void BPF_PROG(acg_set_bandwidth, struct cgroup *cgrp, u64 period_us, u64 quota_us, u64 burst_us)
{
	u32 slot;
	struct acg_cgroup *cgroup = own_slot(cgrp, &slot);

	if (cgroup)
		set_quota(cgroup, period_us * NS_PER_US,
			  quota_us == RUNTIME_INF ? 0 : quota_us * NS_PER_US,
			  burst_us * NS_PER_US);
}

/* Nobody has renewed the lease: after a while the kernel's own scheduler is the better one. */
static __always_inline void leave_if_alone(u64 now_ns)
{
	static char why[] = "no daemon renews the lease";
	unsigned long long no_figures[1] = {};
	struct acg_sched_control *at = control();

	if (at && now_ns > at->lease_until_ns + at->linger_ns)
		scx_bpf_exit_bstr(0, why, no_figures, sizeof(no_figures));
}

static int on_timer(void *map, int *key, struct clockwork *clockwork)
{
	u64 now_ns = bpf_ktime_get_ns(), limit_ns = now_ns;
	struct acg_sched_control *at = control();
	struct heap_entry first = {};
	struct iter_num turns;
	bool unparked = false;
	u32 parked;

	if (acg_limits_changed || (at && now_ns < at->gate_paused_until_ns))
		limit_ns = ~0ULL;
	acg_limits_changed = 0;
	timer_is_fast = 0;
	bpf_iter_num_new(&turns, 0, UNPARKED_AT_ONCE);
	while (bpf_iter_num_next(&turns)) {
		if (!heap_pop(PARKED, limit_ns, &first))
			break;
		unpark(first.slot, now_ns);
		unparked = true;
	}
	bpf_iter_num_destroy(&turns);
	parked = heap_count(PARKED);
	if (parked)
		timer_is_fast = 1;
	if (unparked || heap_count(WAITING))
		kick_idle(acg_cpu_count);
	leave_if_alone(now_ns);
	bpf_timer_start(&clockwork->timer, parked ? TIMER_FAST_NS : TIMER_SLOW_NS, 0);
	return 0;
}

SEC("struct_ops.s/acg_init")
s32 BPF_PROG(acg_init)
{
	u32 zero = 0;
	struct clockwork *clockwork = bpf_map_lookup_elem(&acg_clockwork, &zero);
	s32 error;

	if (!clockwork)
		return -ENOMEM;
	error = bpf_timer_init(&clockwork->timer, &acg_clockwork, CLOCK_MONOTONIC) ?:
		bpf_timer_set_callback(&clockwork->timer, on_timer);
	return error ?: bpf_timer_start(&clockwork->timer, TIMER_SLOW_NS, 0);
}

SEC("struct_ops/acg_end")
void BPF_PROG(acg_end, struct scx_exit_info *info)
{
	acg_exit.code = info->exit_code;
	bpf_probe_read_kernel_str(acg_exit.reason, sizeof(acg_exit.reason), info->reason);
	bpf_probe_read_kernel_str(acg_exit.message, sizeof(acg_exit.message), info->msg);
	/* last: who sees it reads the others */
	acg_exit.kind = info->kind;
}

#endif
