// SPDX-License-Identifier: GPL-2.0-only
/*
 * What happens to processes in watched cgroups: exec, exit, and falling victim to the OOM
 * killer. The victim's command line is remembered at exec, because the OOM killer runs in
 * another task's context, where the victim's memory can't be read.
 */
#define ACG_RING_BYTES (1 << 20)
#include "acg_common.h"

#define COMMANDS_REMEMBERED 16384
#define ANCESTORS_ASKED 4

/*
 * Of dead processes too, until their place is needed: the OOM killer kills its victim before it
 * marks it, so a victim may have exited when it is reported.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, COMMANDS_REMEMBERED);
	__type(key, u32);
	__type(value, struct acg_command);
} acg_commands SEC(".maps");

/*
 * Records too large for the stack are built here. A program can't run twice at a time on a
 * CPU, but two programs can interleave: each has its own slot, by enum acg_record_type.
 */
struct workspace {
	union acg_record record;
	struct acg_command command;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ACG_RECORD_TYPES);
	__type(key, u32);
	__type(value, struct workspace);
} acg_workspaces SEC(".maps");

struct exiting {
	u64 start_ns;
	u32 pid;
	u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct exiting);
	__type(value, u32);
} acg_exiting SEC(".maps");

/* The OOM killer runs under one global lock, so there is one of these. */
struct {
	struct mem_cgroup *memcg;
	u64 last_start_ns;
	u32 caller;
	u32 last_pid;
} oom;

static __always_inline void acg_send(void *record, u64 size, u32 type)
{
	u64 flags = 0;

	if (acg_muted >> type & 1)
		return;
	/* unread quiet records would keep the kernel from waking for the others by itself */
	if (acg_quiet)
		flags = acg_quiet >> type & 1 ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;
	if (bpf_ringbuf_output(&acg_ring, record, size, flags))
		acg_count_drop(type);
}

static __always_inline int on_exec(struct task_struct *task, const char *filename)
{
	u32 slot = ACG_EXEC, pid;
	struct acg_exec_record *exec;
	struct acg_command *command;
	struct workspace *work;

	if (!acg_current_is_watched())
		return 0;
	work = bpf_map_lookup_elem(&acg_workspaces, &slot);
	if (!work)
		return 0;
	exec = &work->record.exec;
	command = &work->command;

	pid = BPF_CORE_READ(task, tgid);
	command->start_ns = BPF_CORE_READ(task, group_leader, start_time);
	bpf_probe_read_kernel(command->comm, sizeof(command->comm), task->comm);
	command->argv_len = acg_read_argv(task, command->argv, &command->argv_cut);
	bpf_map_update_elem(&acg_commands, &pid, command, BPF_ANY);

	acg_stamp(&exec->header, ACG_EXEC, bpf_get_current_cgroup_id());
	exec->pid = pid;
	exec->ppid = BPF_CORE_READ(task, real_parent, tgid);
	exec->argv_len = command->argv_len;
	exec->argv_cut = command->argv_cut;
	__builtin_memcpy(exec->comm, command->comm, sizeof(exec->comm));
	__builtin_memcpy(exec->argv, command->argv, sizeof(exec->argv));
	if (bpf_probe_read_kernel_str(exec->filename, sizeof(exec->filename), filename) < 0)
		exec->filename[0] = 0;
	acg_send(exec, sizeof(*exec), ACG_EXEC);
	return 0;
}

SEC("tracepoint/sched/sched_process_exec")
int acg_on_exec_perf(struct trace_event_raw_sched_process_exec *context)
{
	return on_exec((void *)bpf_get_current_task(), acg_exec_filename(context));
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(acg_on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return on_exec(task, BPF_CORE_READ(bprm, filename));
}

/* Several last threads can all see that nobody is left: only the first one may report. */
static __always_inline bool reported_already(struct task_struct *task, u32 pid)
{
	struct exiting who = { .start_ns = BPF_CORE_READ(task, group_leader, start_time), .pid = pid };
	u32 one = 1;

	/* alone now: a sibling that was reaped since may have reported */
	if (BPF_CORE_READ(task, signal, nr_threads) <= 1)
		return bpf_map_lookup_elem(&acg_exiting, &who) != NULL;
	return bpf_map_update_elem(&acg_exiting, &who, &one, BPF_NOEXIST) != 0;
}

static __always_inline int on_exit(struct task_struct *task)
{
	struct acg_exit_record exit = {};
	struct signal_struct *signal;
	u32 pid;

	if (!acg_current_is_watched())
		return 0;
	signal = BPF_CORE_READ(task, signal);
	pid = BPF_CORE_READ(task, tgid);
	if (BPF_CORE_READ(signal, live.counter) > 0 || reported_already(task, pid))
		return 0;
	acg_stamp(&exit.header, ACG_EXIT, bpf_get_current_cgroup_id());
	exit.pid = pid;
	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		exit.wait_status = BPF_CORE_READ(signal, group_exit_code);
	else
		exit.wait_status = BPF_CORE_READ(task, group_leader, exit_code);
	acg_send(&exit, sizeof(exit), ACG_EXIT);
	return 0;
}

SEC("tracepoint/sched/sched_process_exit")
int acg_on_exit_perf(void *context)
{
	return on_exit((void *)bpf_get_current_task());
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(acg_on_exit, struct task_struct *task)
{
	return on_exit(task);
}

/* Every victim is chosen inside out_of_memory(), by the task that called it. */
SEC("fentry/out_of_memory")
int BPF_PROG(acg_oom_begin, struct oom_control *oc)
{
	oom.memcg = BPF_CORE_READ(oc, memcg);
	oom.caller = (u32)bpf_get_current_pid_tgid();
	return 0;
}

static __always_inline u64 read_rss_pages(struct mm_struct *mm)
{
	struct mm_struct___plain *plain = (void *)mm;
	__s64 file, anon, shmem;

	if (bpf_core_field_exists(plain->rss_stat.count)) {
		file = BPF_CORE_READ(plain, rss_stat.count[0].counter);
		anon = BPF_CORE_READ(plain, rss_stat.count[1].counter);
		shmem = BPF_CORE_READ(plain, rss_stat.count[3].counter);
	} else {
		/* without the per-CPU remainders: off by at most some 32 pages a CPU */
		file = BPF_CORE_READ(mm, rss_stat[0].count);
		anon = BPF_CORE_READ(mm, rss_stat[1].count);
		shmem = BPF_CORE_READ(mm, rss_stat[3].count);
	}
	return (file > 0 ? file : 0) + (anon > 0 ? anon : 0) + (shmem > 0 ? shmem : 0);
}

static __always_inline bool same_comm(const char *left, const char *right)
{
	const u64 *a = (const void *)left, *b = (const void *)right;

	return a[0] == b[0] && a[1] == b[1];
}

/* A child that forked without exec still runs its parent's command, under the same name. */
static __always_inline struct acg_command *lookup_command(struct task_struct *leader,
							  const char *comm)
{
	for (int i = 0; i < ANCESTORS_ASKED; i++) {
		u32 pid = BPF_CORE_READ(leader, tgid);
		struct acg_command *command = bpf_map_lookup_elem(&acg_commands, &pid);

		/* not that of a process which had this number before */
		if (command && command->start_ns == BPF_CORE_READ(leader, start_time))
			return i == 0 || same_comm(command->comm, comm) ? command : NULL;
		leader = BPF_CORE_READ(leader, real_parent);
	}
	return NULL;
}

static __always_inline int report_victim(struct task_struct *victim)
{
	struct task_struct *leader = BPF_CORE_READ(victim, group_leader);
	struct cgroup *home = BPF_CORE_READ(victim, cgroups, dfl_cgrp), *hit = NULL;
	u64 start_ns = BPF_CORE_READ(leader, start_time);
	u32 slot = ACG_OOM_VICTIM, pid = BPF_CORE_READ(victim, tgid);
	struct mem_cgroup *memcg = oom.memcg;
	struct acg_command *command;
	struct acg_oom_record *record;
	struct workspace *work;

	if (oom.caller == (u32)bpf_get_current_pid_tgid() && memcg)
		hit = BPF_CORE_READ(memcg, css.cgroup);
	if (!acg_cgroup_is_watched(home) && !acg_cgroup_is_watched(hit))
		return 0;
	/* the killer comes back to a victim that is slow to die */
	if (oom.last_pid == pid && oom.last_start_ns == start_ns)
		return 0;
	oom.last_pid = pid;
	oom.last_start_ns = start_ns;
	work = bpf_map_lookup_elem(&acg_workspaces, &slot);
	if (!work)
		return 0;

	record = &work->record.oom;
	acg_stamp(&record->header, ACG_OOM_VICTIM, acg_cgroup_id(hit));
	record->victim_cgroup_id = acg_cgroup_id(home);
	record->rss_pages = read_rss_pages(BPF_CORE_READ(victim, mm));
	record->pid = pid;
	record->pad = 0;
	BPF_CORE_READ_INTO(&record->comm, leader, comm);
	record->argv_len = 0;
	record->argv_cut = 0;
	command = lookup_command(leader, record->comm);
	if (command) {
		record->argv_len = command->argv_len;
		record->argv_cut = command->argv_cut;
		__builtin_memcpy(record->argv, command->argv, sizeof(record->argv));
	}
	acg_send(record, sizeof(*record), ACG_OOM_VICTIM);
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(acg_victim_marked, struct task_struct *victim)
{
	return report_victim(victim);
}

/* until 6.8 the tracepoint tells nothing but a pid; the function has the task */
SEC("fentry/mark_oom_victim")
int BPF_PROG(acg_victim_chosen, struct task_struct *victim)
{
	return report_victim(victim);
}
