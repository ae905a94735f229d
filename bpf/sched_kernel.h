/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What sched.bpf.c needs of the kernel beside acg_kernel.h: sched_ext's types and functions.
 * A function with ___acg is the kernel's of that name where it has one.
 */
#ifndef ACG_SCHED_KERNEL_H
#define ACG_SCHED_KERNEL_H

#include "acg_kernel.h"
#include "agentcgroup_abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef __s32 s32;
typedef __s64 s64;

#define PF_KTHREAD 0x00200000
#define CLOCK_MONOTONIC 1
#define NS_PER_US 1000ULL
#define NS_PER_MS 1000000ULL
#define NS_PER_S 1000000000ULL

enum scx_exit_kind { SCX_EXIT_NONE };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct cfs_bandwidth {
	s64 period;
	u64 quota;
	u64 burst;
};

struct task_group {
	struct cgroup_subsys_state css;
	struct task_group *parent;
	struct cfs_bandwidth cfs_bandwidth;
	int idle;
};

struct scx_init_task_args {
	bool fork;
	struct cgroup *cgroup;
};

struct scx_cgroup_init_args {
	u32 weight;
};

struct scx_exit_info {
	enum scx_exit_kind kind;
	s64 exit_code;
	const char *reason;
	char *msg;
};

#pragma clang attribute pop

/* Members are matched by name with the kernel's; the ones that are left out are zero. */
struct sched_ext_ops {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*tick)(struct task_struct *p);
	void (*runnable)(struct task_struct *p, u64 enq_flags);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	void (*quiescent)(struct task_struct *p, u64 deq_flags);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*enable)(struct task_struct *p);
	s32 (*cgroup_init)(struct cgroup *cgrp, struct scx_cgroup_init_args *args);
	void (*cgroup_exit)(struct cgroup *cgrp);
	void (*cgroup_move)(struct task_struct *p, struct cgroup *from, struct cgroup *to);
	void (*cgroup_set_weight)(struct cgroup *cgrp, u32 weight);
	void (*cgroup_set_bandwidth)(struct cgroup *cgrp, u64 period_us, u64 quota_us, u64 burst_us);
	void (*cgroup_set_idle)(struct cgroup *cgrp, bool idle);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

/* Values are read from the running kernel. */
enum scx_dsq_id_flags { SCX_DSQ_LOCAL = 1 };
enum scx_enq_flags { SCX_ENQ_WAKEUP = 1, SCX_ENQ_PREEMPT = 2, SCX_ENQ_LAST = 3 };
enum scx_wake_flags { SCX_WAKE_SYNC = 1 };
enum scx_kick_flags { SCX_KICK_IDLE = 1, SCX_KICK_PREEMPT = 2 };
enum scx_ent_flags { SCX_TASK_QUEUED = 1 };
enum cgroup_subsys_id { cpu_cgrp_id = 1 };

#define DSQ_LOCAL ((u64)bpf_core_enum_value(enum scx_dsq_id_flags, SCX_DSQ_LOCAL))
#define ENQ_WAKEUP ((u64)bpf_core_enum_value(enum scx_enq_flags, SCX_ENQ_WAKEUP))
#define ENQ_PREEMPT ((u64)bpf_core_enum_value(enum scx_enq_flags, SCX_ENQ_PREEMPT))
#define ENQ_LAST ((u64)bpf_core_enum_value(enum scx_enq_flags, SCX_ENQ_LAST))
#define WAKE_SYNC ((u64)bpf_core_enum_value(enum scx_wake_flags, SCX_WAKE_SYNC))
#define KICK_IDLE ((u64)bpf_core_enum_value(enum scx_kick_flags, SCX_KICK_IDLE))
#define KICK_PREEMPT ((u64)bpf_core_enum_value(enum scx_kick_flags, SCX_KICK_PREEMPT))
#define TASK_QUEUED ((u32)bpf_core_enum_value(enum scx_ent_flags, SCX_TASK_QUEUED))

/* enum scx_ops_flags; the kernel calls enqueue when a task is the only one of its CPU */
#define SCX_OPS_ENQ_LAST 2

extern s32 scx_bpf_create_dsq(u64 dsq_id, s32 node) __ksym;
extern s32 scx_bpf_dsq_nr_queued(u64 dsq_id) __ksym;
extern bool scx_bpf_dsq_move_to_local(u64 dsq_id) __ksym;
extern s32 scx_bpf_select_cpu_dfl(struct task_struct *p, s32 prev_cpu, u64 wake_flags,
				  bool *is_idle) __ksym;
extern s32 scx_bpf_pick_idle_cpu(const struct cpumask *allowed, u64 flags) __ksym;
extern void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;
extern s32 scx_bpf_task_cpu(const struct task_struct *p) __ksym;
extern void scx_bpf_exit_bstr(s64 exit_code, char *fmt, unsigned long long *data,
			      u32 data_bytes) __ksym;
extern bool bpf_cpumask_test_cpu(u32 cpu, const struct cpumask *cpumask) __ksym;

/* An iterator over numbers: the verifier follows its loop once, not every time around. */
struct iter_num {
	u64 opaque[1];
} __attribute__((aligned(8)));

extern int bpf_iter_num_new(struct iter_num *iter, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct iter_num *iter) __ksym;
extern void bpf_iter_num_destroy(struct iter_num *iter) __ksym;

extern void scx_bpf_dsq_insert(struct task_struct *p, u64 dsq_id, u64 slice,
			       u64 enq_flags) __weak __ksym;
extern bool scx_bpf_dsq_insert___v2___acg(struct task_struct *p, u64 dsq_id, u64 slice,
					  u64 enq_flags) __weak __ksym;
extern void scx_bpf_dsq_insert_vtime(struct task_struct *p, u64 dsq_id, u64 slice, u64 vtime,
				     u64 enq_flags) __ksym;
extern bool scx_bpf_task_set_dsq_vtime___acg(struct task_struct *p, u64 vtime) __weak __ksym;
extern bool scx_bpf_task_set_slice___acg(struct task_struct *p, u64 slice) __weak __ksym;

#ifndef bpf_ksym_exists /* libbpf 1.1 has none */
#define bpf_ksym_exists(symbol) (!!(symbol))
#endif

static __always_inline void insert(struct task_struct *p, u64 dsq_id, u64 slice_ns, u64 enq_flags)
{
	if (bpf_ksym_exists(scx_bpf_dsq_insert___v2___acg))
		scx_bpf_dsq_insert___v2___acg(p, dsq_id, slice_ns, enq_flags);
	else
		scx_bpf_dsq_insert(p, dsq_id, slice_ns, enq_flags);
}

static __always_inline void set_vtime(struct task_struct *p, u64 vtime_ns)
{
	if (bpf_ksym_exists(scx_bpf_task_set_dsq_vtime___acg))
		scx_bpf_task_set_dsq_vtime___acg(p, vtime_ns);
	else
		p->scx.dsq_vtime = vtime_ns;
}

static __always_inline void set_slice(struct task_struct *p, u64 slice_ns)
{
	if (bpf_ksym_exists(scx_bpf_task_set_slice___acg))
		scx_bpf_task_set_slice___acg(p, slice_ns);
	else
		p->scx.slice = slice_ns;
}

#endif
