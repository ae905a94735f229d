/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every record that BPF programs hand to user space, defined once.
 *
 * Python reads names, offsets, sizes and enum values from the object's own BTF, so a member
 * that moves needs no second edit; one that is renamed or changes its meaning does, together
 * with ACG_ABI_VERSION. Times are CLOCK_MONOTONIC, sizes of memory are pages as the kernel
 * counts them, pids are those of the initial pid namespace. All padding is named.
 */
#ifndef AGENTCGROUP_ABI_H
#define AGENTCGROUP_ABI_H

#define ACG_ABI_VERSION 1

#define ACG_COMM_LEN 16
#define ACG_FILENAME_LEN 128
#define ACG_ARGV_LEN 192

enum acg_record_type {
	ACG_EXEC = 1,
	ACG_EXIT = 2,
	ACG_OOM_VICTIM = 3,
	ACG_MEMORY = 4,
	ACG_BOUNDARY = 5,
	ACG_RECORD_TYPES = 6,
};

/* Numbers of their own: the kernel's enum memcg_memory_event may be renumbered. */
enum acg_memory_kind {
	ACG_MEMORY_HIGH = 1,
	ACG_MEMORY_MAX = 2,
	ACG_MEMORY_OOM = 3,
	ACG_MEMORY_OOM_KILL = 4,
	ACG_MEMORY_RECLAIM = 5,
	ACG_MEMORY_CHARGE_FAILED = 6,
};

/* Leads every record. cgroup_id: where it happened; 0 is the whole host. */
struct acg_header {
	__u64 t_ns;
	__u64 cgroup_id;
	enum acg_record_type type;
	__u32 pad;
};
_Static_assert(sizeof(struct acg_header) == 24, "acg_header layout");

/* argv: arguments as they lie in memory, each ended by a NUL, cut at ACG_ARGV_LEN. */
struct acg_exec_record {
	struct acg_header header;
	__u32 pid;
	__u32 ppid;
	__u32 argv_len;
	__u32 argv_cut;
	char comm[ACG_COMM_LEN];
	char filename[ACG_FILENAME_LEN];
	char argv[ACG_ARGV_LEN];
};
_Static_assert(sizeof(struct acg_exec_record) == 376, "acg_exec_record layout");

/* Sent once per process, when its last thread exits. wait_status as waitpid(2) has it. */
struct acg_exit_record {
	struct acg_header header;
	__u32 pid;
	__u32 wait_status;
};
_Static_assert(sizeof(struct acg_exit_record) == 32, "acg_exit_record layout");

/*
 * header.cgroup_id: the memcg that ran out, 0 for the host. argv is empty when the victim's
 * exec was not seen; comm is there always.
 */
struct acg_oom_record {
	struct acg_header header;
	__u64 victim_cgroup_id;
	__u64 rss_pages;
	__u32 pid;
	__u32 argv_len;
	__u32 argv_cut;
	__u32 pad;
	char comm[ACG_COMM_LEN];
	char argv[ACG_ARGV_LEN];
};
_Static_assert(sizeof(struct acg_oom_record) == 264, "acg_oom_record layout");

struct acg_memory_record {
	struct acg_header header;
	__u64 usage_pages;
	__u64 high_pages;
	__u64 max_pages;
	enum acg_memory_kind kind;
	__u32 pad;
};
_Static_assert(sizeof(struct acg_memory_record) == 56, "acg_memory_record layout");

/*
 * A process of an agent became a program that begins a tool call, and stands still if `stopped`.
 * start_ticks: of its birth, in hundredths of a second after boot, as /proc/PID/stat has it.
 * shell_pid: the persistent shell that it descends from, 0 if none.
 */
struct acg_boundary_record {
	struct acg_header header;
	__u64 start_ticks;
	__u32 pid;
	__u32 ppid;
	__u32 shell_pid;
	__u32 stopped;
	__u32 argv_len;
	__u32 argv_cut;
	char comm[ACG_COMM_LEN];
	char filename[ACG_FILENAME_LEN];
	char argv[ACG_ARGV_LEN];
};
_Static_assert(sizeof(struct acg_boundary_record) == 392, "acg_boundary_record layout");

union acg_record {
	struct acg_header header;
	struct acg_exec_record exec;
	struct acg_exit_record exit;
	struct acg_oom_record oom;
	struct acg_memory_record memory;
	struct acg_boundary_record boundary;
};

/* What is remembered of a process at its exec, for the day it falls victim to the OOM killer. */
struct acg_command {
	__u64 start_ns;
	__u32 argv_len;
	__u32 argv_cut;
	char comm[ACG_COMM_LEN];
	char argv[ACG_ARGV_LEN];
};
_Static_assert(sizeof(struct acg_command) == 224, "acg_command layout");

/*
 * A call's line for the memory hooks, written by user space under the call's cgroup id.
 * delay_ms: by steps of step_bytes upwards from stop_bytes; the last one holds for all above.
 * delayed is the program's own: delays began above start_bytes and have not ended.
 */
#define ACG_DELAY_STEPS 16

struct acg_line {
	__u64 start_bytes;
	__u64 stop_bytes;
	__u64 step_bytes;
	__u64 protected_bytes;
	__u32 delay_ms[ACG_DELAY_STEPS];
	__u32 delayed;
	__u32 pad;
};
_Static_assert(sizeof(struct acg_line) == 104, "acg_line layout");

enum acg_hook_count {
	ACG_HOOK_ASKED = 0,
	ACG_HOOK_DELAYED = 1,
	ACG_HOOK_ONLINE = 2,
	ACG_HOOK_OFFLINE = 3,
	ACG_HOOK_COUNTS = 4,
};

/*
 * The exec boundary (boundary.bpf.c). User space says by cgroup id where agents are, and by the
 * base name of a program, cut and filled up with NULs, whether it begins a tool call there.
 */
#define ACG_PROGRAM_LEN 32

enum acg_verdict {
	ACG_BEGINS = 1,
	ACG_IGNORED = 2,
};

struct acg_program {
	__u64 cgroup_id;
	char name[ACG_PROGRAM_LEN];
};
_Static_assert(sizeof(struct acg_program) == 40, "acg_program layout");

enum acg_agent_flag {
	ACG_EVERY_PROGRAM = 1, /* begins a tool call, whatever its name */
	ACG_ENTRANTS = 2,      /* whoever comes in from outside begins one */
};

struct acg_agent {
	enum acg_agent_flag flags;
	__u32 pad;
};
_Static_assert(sizeof(struct acg_agent) == 8, "acg_agent layout");

/* A process that begins no call by its own exec: the agent, or a persistent shell of it. */
enum acg_own_kind {
	ACG_OWN_AGENT = 1,
	ACG_OWN_SHELL = 2,
	ACG_OWN_SHELL_IN_CALL = 3, /* and whatever it starts belongs to a call */
};

struct acg_own {
	__u64 start_ticks;
	enum acg_own_kind kind;
	__u32 pad;
};
_Static_assert(sizeof(struct acg_own) == 16, "acg_own layout");

/* Who stands still for the boundary, by pid. At due_ns at the latest somebody continues it. */
struct acg_stopped {
	__u64 start_ticks;
	__u64 stopped_ns;
	__u64 due_ns;
	__u64 cgroup_id;
};
_Static_assert(sizeof(struct acg_stopped) == 32, "acg_stopped layout");

/* Nobody is stopped after lease_until_ns, and for patience_ns unless user space says more. */
struct acg_boundary_control {
	__u64 lease_until_ns;
	__u64 patience_ns;
	__u64 host_mounts;
};
_Static_assert(sizeof(struct acg_boundary_control) == 24, "acg_boundary_control layout");

enum acg_boundary_count {
	ACG_SEEN = 0,
	ACG_STOPPED = 1,
	ACG_NOT_TOLD = 2,    /* the ring was full: it ran on, outside of every call */
	ACG_JOB_CONTROL = 3, /* not stopped: a shell that waits for stopped jobs started it */
	ACG_NO_LEASE = 4,    /* not stopped: user space is silent */
	ACG_NOT_STOPPED = 5, /* no room to note it, or the kernel refused the signal */
	ACG_BOUNDARY_COUNTS = 6,
};

/*
 * The scheduler (sched.bpf.c). A policy holds for its cgroup and for all below it that have
 * none of their own; figures out of range count as the first one.
 */
enum acg_latency {
	ACG_STANDARD = 0,
	ACG_INTERACTIVE = 1,
	ACG_BATCH = 2,
	ACG_LATENCIES = 3,
};

enum acg_rank {
	ACG_UNMANAGED = 0,
	ACG_LOW = 1,
	ACG_NORMAL = 2,
	ACG_HIGH = 3,
	ACG_RANKS = 4,
};

struct acg_sched_policy {
	__u32 latency;
	__u32 rank;
};
_Static_assert(sizeof(struct acg_sched_policy) == 8, "acg_sched_policy layout");

/*
 * Written by user space. After lease_until_ns no policy holds; linger_ns later the scheduler
 * leaves. policy_generation: another number after every change of a policy.
 */
struct acg_sched_control {
	__u64 lease_until_ns;
	__u64 linger_ns;
	__u64 gate_closed_ns;
	__u64 gate_open_ns;
	__u64 gate_paused_until_ns;
	__u64 policy_generation;
};
_Static_assert(sizeof(struct acg_sched_control) == 48, "acg_sched_control layout");

/* What the scheduler did for one cgroup. */
struct acg_sched_counts {
	__u64 gated_count;
	__u64 gated_ns;
	__u64 throttled_count;
	__u64 throttled_ns;
	__u64 express_count;
	__u64 express_ns;
};
_Static_assert(sizeof(struct acg_sched_counts) == 48, "acg_sched_counts layout");

/* Why the kernel ended it: struct scx_exit_info. */
struct acg_sched_exit {
	__u64 kind;
	__s64 code;
	char reason[128];
	char message[256];
};
_Static_assert(sizeof(struct acg_sched_exit) == 400, "acg_sched_exit layout");

#endif
