// SPDX-License-Identifier: GPL-2.0-only
/*
 * The exec boundary: a process of an agent that becomes a shell, or another program that user
 * space named, begins a tool call. It is stopped before its first instruction; user space
 * moves it to a cgroup of its own and continues it. (Kernel: fs/exec.c, exec_binprm.)
 *
 * Nothing is stopped that user space is not told of, and acg_stopped, which outlives the
 * daemon, has everybody who stands still, with the time by which somebody must have continued
 * it.
 */
#define ACG_RING_BYTES (1 << 18)
#include "acg_common.h"

#define SIGSTOP 19
#define ANCESTORS_ASKED 8
#define TICK_NS 10000000 /* USER_HZ, in which /proc tells times, is 100 everywhere */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct acg_agent);
} acg_agents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct acg_program);
	__type(value, enum acg_verdict);
} acg_programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, struct acg_own);
} acg_own_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct acg_stopped);
} acg_stopped_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct acg_boundary_control);
} acg_boundary_controls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ACG_BOUNDARY_COUNTS);
	__type(key, enum acg_boundary_count);
	__type(value, u64);
} acg_boundary_counts SEC(".maps");

static __always_inline void count(enum acg_boundary_count what)
{
	u64 *counted = bpf_map_lookup_elem(&acg_boundary_counts, &what);

	if (counted)
		__sync_fetch_and_add(counted, 1);
}

static __always_inline u64 start_ticks(struct task_struct *task)
{
	return BPF_CORE_READ(task, group_leader, start_boottime) / TICK_NS;
}

static __always_inline u64 cgroup_id_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
}

static __always_inline u32 own_kind(struct task_struct *task)
{
	u32 pid = BPF_CORE_READ(task, tgid);
	struct acg_own *own = bpf_map_lookup_elem(&acg_own_processes, &pid);

	return own && own->start_ticks == start_ticks(task) ? own->kind : 0;
}

/* The shell in a call that this process descends from, by way of the agent's own cgroup. */
static __always_inline u32 shell_above(struct task_struct *task, u64 agent_id)
{
	for (int i = 0; i < ANCESTORS_ASKED; i++) {
		task = BPF_CORE_READ(task, real_parent);
		if (!task || cgroup_id_of(task) != agent_id)
			return 0;
		if (own_kind(task) == ACG_OWN_SHELL_IN_CALL)
			return BPF_CORE_READ(task, tgid);
	}
	return 0;
}

static __always_inline enum acg_verdict verdict_on(u64 agent_id, const char *base_name)
{
	struct acg_program program = { .cgroup_id = agent_id };
	enum acg_verdict *verdict;

	/* not to be overread: the rest is NUL */
	if (bpf_probe_read_kernel_str(program.name, sizeof(program.name), base_name) < 0)
		return 0;
	verdict = bpf_map_lookup_elem(&acg_programs, &program);
	return verdict ? *verdict : 0;
}

/* What follows the last slash of the kernel's string. */
static __always_inline const char *base_of(const char *filename)
{
	char name[ACG_FILENAME_LEN] = {};
	u32 base = 0, found = 0;

	if (bpf_probe_read_kernel_str(name, sizeof(name), filename) < 0)
		return filename;
	for (u32 i = 0; i < ACG_FILENAME_LEN; i++) {
		if (!name[i])
			break;
		if (name[i] == '/' && i + 1 < ACG_FILENAME_LEN)
			base = i + 1;
	}
	/* so that the verifier need not go through the rest for every place of a slash */
	bpf_probe_read_kernel(&found, sizeof(found), &base);
	return filename + (found & (ACG_FILENAME_LEN - 1));
}

/* Somebody who comes in has left the host's mounts: earlier execs are the container runtime's. */
static __always_inline bool is_entrant(struct task_struct *task, u64 agent_id,
				       const struct acg_boundary_control *control)
{
	return cgroup_id_of(BPF_CORE_READ(task, real_parent)) != agent_id &&
	       BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) != control->host_mounts;
}

/* An interactive shell is told of children that stop, and takes them for its user's. */
static __always_inline bool is_job(struct task_struct *task)
{
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct tty_struct *tty = BPF_CORE_READ(task, signal, tty);

	return tty && tty == BPF_CORE_READ(parent, signal, tty) &&
	       BPF_CORE_READ(task, signal, pids[PIDTYPE_PGID]) !=
		       BPF_CORE_READ(parent, signal, pids[PIDTYPE_PGID]);
}

static __always_inline bool stop(struct task_struct *task, u32 pid, u64 agent_id,
				 const struct acg_boundary_control *control)
{
	u64 now_ns = bpf_ktime_get_ns();
	struct acg_stopped stopped = {
		.start_ticks = start_ticks(task),
		.stopped_ns = now_ns,
		.due_ns = now_ns + control->patience_ns,
		.cgroup_id = agent_id,
	};

	if (now_ns > control->lease_until_ns) {
		count(ACG_NO_LEASE);
		return false;
	}
	if (is_job(task)) {
		count(ACG_JOB_CONTROL);
		return false;
	}
	if (bpf_map_update_elem(&acg_stopped_processes, &pid, &stopped, BPF_ANY)) {
		count(ACG_NOT_STOPPED);
		return false;
	}
	if (bpf_send_signal(SIGSTOP)) {
		bpf_map_delete_elem(&acg_stopped_processes, &pid);
		count(ACG_NOT_STOPPED);
		return false;
	}
	count(ACG_STOPPED);
	return true;
}

static __always_inline bool begins_call(struct task_struct *task, u64 agent_id,
					const struct acg_agent *agent, const char *filename,
					const struct acg_boundary_control *control)
{
	enum acg_verdict by_name = verdict_on(agent_id, base_of(filename)), by_file;

	if (by_name == ACG_IGNORED)
		return false;
	if ((agent->flags & ACG_ENTRANTS) && is_entrant(task, agent_id, control))
		return true;
	if (by_name == ACG_BEGINS || (agent->flags & ACG_EVERY_PROGRAM))
		return true;
	/* of a script it is the interpreter, of a link what it leads to */
	by_file = verdict_on(agent_id, (const char *)BPF_CORE_READ(task, mm, exe_file,
								  f_path.dentry, d_name.name));
	return by_file == ACG_BEGINS;
}

static __always_inline int on_exec(struct task_struct *task, const char *filename)
{
	u64 agent_id = bpf_get_current_cgroup_id();
	struct acg_agent *agent = bpf_map_lookup_elem(&acg_agents, &agent_id);
	struct acg_boundary_record *record;
	struct acg_boundary_control *control;
	u32 zero = 0, shell_pid, pid;

	if (!agent)
		return 0;
	control = bpf_map_lookup_elem(&acg_boundary_controls, &zero);
	if (!control || own_kind(task))
		return 0;
	shell_pid = shell_above(task, agent_id);
	if (!shell_pid && !begins_call(task, agent_id, agent, filename, control))
		return 0;
	count(ACG_SEEN);
	record = bpf_ringbuf_reserve(&acg_ring, sizeof(*record), 0);
	if (!record) {
		count(ACG_NOT_TOLD);
		return 0;
	}
	pid = BPF_CORE_READ(task, tgid);
	acg_stamp(&record->header, ACG_BOUNDARY, agent_id);
	record->start_ticks = start_ticks(task);
	record->pid = pid;
	record->ppid = BPF_CORE_READ(task, real_parent, tgid);
	record->shell_pid = shell_pid;
	BPF_CORE_READ_INTO(&record->comm, task, comm);
	record->argv_len = acg_read_argv(task, record->argv, &record->argv_cut);
	if (bpf_probe_read_kernel_str(record->filename, sizeof(record->filename), filename) < 0)
		record->filename[0] = 0;
	record->stopped = stop(task, pid, agent_id, control);
	bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
	return 0;
}

/*
 * Where tracepoints can be preempted, a program at the BTF tracepoint is left out when another
 * task on that CPU is inside it (kernel/trace/bpf_trace.c); perf's tracepoints can't be.
 */
SEC("tracepoint/sched/sched_process_exec")
int acg_boundary_perf(struct trace_event_raw_sched_process_exec *context)
{
	return on_exec((void *)bpf_get_current_task(), acg_exec_filename(context));
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(acg_boundary_btf, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return on_exec(task, BPF_CORE_READ(bprm, filename));
}
