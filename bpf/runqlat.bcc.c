// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long tasks wait for a CPU, from runnable to running, for `observe runqlat`.
 *
 * Compiled by BCC when it is asked for. It shares nothing with our other programs on purpose:
 * it is the independent instrument, also for schedulers, whose class does not matter to these
 * tracepoints.
 *
 * latency.bcc.h goes before it. Defined by whoever compiles it: what that asks for, and where
 * the kernel keeps what is read here, from its BTF, each as `offset, size` in bytes. (The
 * headers' structs would depend on the compiler understanding all that is in them.)
 */
#include <linux/errno.h>

enum what { RUNQLAT };

struct wait {
	u64 since_ns;
	u64 session; /* cgroup id, 0: in none */
};

/* By address of the task. Who waits is in here, nobody else. */
BPF_HASH(waiting, u64, struct wait, 65536);

static __always_inline u64 value_at(u64 base, u64 offset, u32 bytes)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, bytes, (void *)(base + offset));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	value >>= 8 * (sizeof(value) - bytes);
#endif
	return value;
}

static __always_inline u64 ancestor_id(u64 cgroup, u32 level)
{
	u64 ancestor = value_at(cgroup + sizeof(void *) * level, CGROUP_ANCESTORS);

	return value_at(value_at(ancestor, CGROUP_KN), KERNFS_NODE_ID);
}

/* Not from the helpers for this: they know the current task only, which wakes or gives way. */
static __always_inline u64 session_of(u64 task)
{
	u64 cgroup = value_at(value_at(task, TASK_STRUCT_CGROUPS), CSS_SET_DFL_CGRP);

	if (value_at(cgroup, CGROUP_LEVEL) <= ROOT_LEVEL ||
	    ancestor_id(cgroup, ROOT_LEVEL) != ROOT_ID)
		return 0;
	return ancestor_id(cgroup, ROOT_LEVEL + 1);
}

/* For sched_wakeup and sched_wakeup_new: (task). */
int on_wakeup(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	struct wait wait = {.since_ns = bpf_ktime_get_ns()};
	int failed;

	/* Woken before it was off its CPU: it goes on, or on_switch sees it give way. */
	if (value_at(task, TASK_STRUCT_ON_CPU))
		return 0;
	wait.session = session_of(task);
	/* Whoever was preempted on its way to sleep waits since then already. */
	failed = waiting.insert(&task, &wait);
	if (failed && failed != -EEXIST)
		lose();
	return 0;
}

/* For sched_switch: (preempted, previous task, next task). */
int on_switch(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = bpf_ktime_get_ns(), previous = ctx->args[1], next = ctx->args[2];
	bool runnable = ctx->args[0] || !value_at(previous, TASK_STRUCT___STATE);
	bool idle = !value_at(previous, TASK_STRUCT_PID);
	struct wait wait = {.since_ns = now}, *waited;

	if (!runnable) {
		/* Only there if its way onto the CPU was missed: no later wait began back then. */
		waiting.delete(&previous);
	} else if (!idle) {
		wait.session = session_of(previous);
		if (waiting.update(&previous, &wait))
			lose();
	}
	waited = waiting.lookup(&next);
	if (waited) {
		record(waited->session, RUNQLAT, now - waited->since_ns);
		waiting.delete(&next);
	}
	return 0;
}
