/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The few kernel types that the programs look into. Only the members named here matter:
 * CO-RE relocates each to where the running kernel has it. A type with ___suffix is the same
 * kernel type in another shape; which shape is there is asked with bpf_core_field_exists.
 */
#ifndef ACG_KERNEL_H
#define ACG_KERNEL_H

#include <linux/types.h>
#include <linux/bpf.h>

typedef _Bool bool;
#define true 1
#define false 0

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;
typedef int pid_t;
typedef unsigned int gfp_t;

/* not relocated: anonymous, and one member each */
typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;
typedef atomic64_t atomic_long_t;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	u64 id;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	int level;
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *ancestors[];
};

struct page_counter {
	atomic_long_t usage;
	unsigned long high;
	unsigned long max;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct signal_struct {
	atomic_t live;
	int nr_threads;
	int group_exit_code;
	unsigned int flags;
	struct pid *pids[4];
	struct tty_struct *tty;
};
#define SIGNAL_GROUP_EXIT 0x4
/* of enum pid_type, unchanged since 4.19 */
#define PIDTYPE_PGID 2

struct percpu_counter {
	__s64 count;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file {
	struct path f_path;
};

struct ns_common {
	unsigned int inum;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
	struct percpu_counter rss_stat[4];
};

/* until 6.1 */
struct mm_rss_stat___plain {
	atomic_long_t count[4];
};

struct mm_struct___plain {
	struct mm_rss_stat___plain rss_stat;
};

struct sched_entity {
	u64 sum_exec_runtime;
};

struct sched_ext_entity {
	u32 flags;
	u32 weight;
	u64 slice;
	u64 dsq_vtime;
};

struct cpumask {
	unsigned long bits[1];
};

struct task_struct {
	unsigned int flags;
	struct sched_entity se;
	struct sched_ext_entity scx;
	int nr_cpus_allowed;
	const struct cpumask *cpus_ptr;
	struct task_group *sched_task_group;
	struct mm_struct *mm;
	pid_t pid;
	pid_t tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	u64 start_time;
	u64 start_boottime;
	int exit_code;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct css_set *cgroups;
	char comm[16];
};

struct linux_binprm {
	const char *filename;
};

struct trace_event_raw_sched_process_exec {
	unsigned int __data_loc_filename;
};

struct oom_control {
	struct mem_cgroup *memcg;
};

#pragma clang attribute pop

/* Values are read from the running kernel: the enum has grown at its front before. */
enum memcg_memory_event {
	MEMCG_HIGH = 1,
	MEMCG_MAX = 2,
	MEMCG_OOM = 3,
	MEMCG_OOM_KILL = 4,
};

#endif
