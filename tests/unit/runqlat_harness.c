// SPDX-License-Identifier: Apache-2.0
/*
 * bpf/runqlat.bcc.c on an invented kernel: tables, tasks and cgroups are this program's own, the
 * tracepoints are lines on stdin, `NS VERB TASK [TASK]`. At the end it prints what was counted.
 *
 *   wake T, new T    the tracepoints of these names
 *   doze T           T has said that it will sleep, and still runs
 *   sleep, yield, preempt T U    T gives way to U: for good, runnable, by force
 *   place T C        T is in cgroup C from now on
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef unsigned long long u64;
typedef unsigned int u32;
#define lock_xadd(at, more) (*(at) += (more))
#define bpf_probe_read_kernel(to, size, from) memcpy(to, from, size)

struct bpf_raw_tracepoint_args {
	u64 args[3];
};

static u64 clock_ns;
static u64 bpf_ktime_get_ns(void) { return clock_ns; }

#define ROOM 64
#define TABLE(name, K, V)                                                                     \
	static struct { K keys[ROOM]; V values[ROOM]; bool used[ROOM]; } name##_data;         \
	static V *name##_lookup(K *key)                                                       \
	{                                                                                     \
		for (int i = 0; i < ROOM; i++)                                                \
			if (name##_data.used[i] && !memcmp(&name##_data.keys[i], key, sizeof(K))) \
				return &name##_data.values[i];                                \
		return NULL;                                                                  \
	}                                                                                     \
	static inline int name##_update(K *key, V *value)                                     \
	{                                                                                     \
		V *found = name##_lookup(key);                                                \
		for (int i = 0; !found && i < ROOM; i++) {                                    \
			if (name##_data.used[i])                                              \
				continue;                                                     \
			name##_data.used[i] = true;                                           \
			name##_data.keys[i] = *key;                                           \
			found = &name##_data.values[i];                                       \
		}                                                                             \
		if (found)                                                                    \
			*found = *value;                                                      \
		return found ? 0 : -7; /* E2BIG, as a full hash table says */                 \
	}                                                                                     \
	static inline int name##_insert(K *key, V *value)                                     \
	{                                                                                     \
		return name##_lookup(key) ? -17 : name##_update(key, value);                  \
	}                                                                                     \
	static inline V *name##_init(K *key, V *value)                                        \
	{                                                                                     \
		name##_insert(key, value);                                                    \
		return name##_lookup(key);                                                    \
	}                                                                                     \
	static inline int name##_delete(K *key)                                               \
	{                                                                                     \
		V *found = name##_lookup(key);                                                \
		if (found)                                                                    \
			name##_data.used[found - name##_data.values] = false;                 \
		return found ? 0 : -2;                                                        \
	}                                                                                     \
	static const struct {                                                                 \
		V *(*lookup)(K *), *(*lookup_or_try_init)(K *, V *);                          \
		int (*update)(K *, V *), (*insert)(K *, V *), (*delete)(K *);                 \
	} name = {name##_lookup, name##_init, name##_update, name##_insert, name##_delete}
#define BPF_HASH(name, K, V, room) TABLE(name, K, V)
#define BPF_PERCPU_HASH(name, K, V, room) TABLE(name, K, V)
#define BPF_ARRAY(name, V, room) TABLE(name, u32, V)

struct kernfs_node { u64 other, id; };
struct cgroup { int level; struct kernfs_node *kn; struct cgroup *ancestors[8]; };
struct css_set { u64 other; struct cgroup *dfl_cgrp; };
struct task_struct { u32 __state; unsigned char on_cpu, on_rq; int pid; struct css_set *cgroups; };

#define PLACE(type, member) offsetof(struct type, member), sizeof(((struct type *)0)->member)
#define ROOT_ID 20ULL
#define ROOT_LEVEL 2
#define TASK_STRUCT_PID PLACE(task_struct, pid)
#define TASK_STRUCT___STATE PLACE(task_struct, __state)
#define TASK_STRUCT_ON_CPU PLACE(task_struct, on_cpu)
#define TASK_STRUCT_CGROUPS PLACE(task_struct, cgroups)
#define CSS_SET_DFL_CGRP PLACE(css_set, dfl_cgrp)
#define CGROUP_LEVEL PLACE(cgroup, level)
#define CGROUP_KN PLACE(cgroup, kn)
#define CGROUP_ANCESTORS offsetof(struct cgroup, ancestors), sizeof(void *)
#define KERNFS_NODE_ID PLACE(kernfs_node, id)

#include "latency.bcc.h"
#include "runqlat.bcc.c"

/* By number: top, the slice the tree is in, the tree, two sessions, a call of the first; one
 * elsewhere that is as deep as a session. */
static const int parents[] = {-1, 0, 1, 2, 2, 3, 1, 6};
static const u64 ids[] = {1, 10, ROOT_ID, 30, 31, 40, 21, 32};
#define CGROUPS (int)(sizeof(ids) / sizeof(*ids))
static struct kernfs_node nodes[CGROUPS];
static struct cgroup cgroups[CGROUPS];
static struct css_set css_sets[CGROUPS];
static struct task_struct tasks[128];

static void invent(void)
{
	for (int i = 0; i < CGROUPS; i++) {
		struct cgroup *parent = i ? &cgroups[parents[i]] : NULL;

		nodes[i].id = ids[i];
		if (parent)
			cgroups[i] = *parent;
		cgroups[i].level = parent ? parent->level + 1 : 0;
		cgroups[i].kn = &nodes[i];
		cgroups[i].ancestors[cgroups[i].level] = &cgroups[i];
		css_sets[i].dfl_cgrp = &cgroups[i];
	}
	for (int i = 0; i < 128; i++)
		tasks[i] = (struct task_struct){.pid = i, .on_rq = 1, .cgroups = &css_sets[0]};
}

static void give_way(const char *verb, struct task_struct *task, struct task_struct *next)
{
	if (strcmp(verb, "preempt"))
		task->__state = !strcmp(verb, "sleep");
	on_switch(&(struct bpf_raw_tracepoint_args){
		{!strcmp(verb, "preempt"), (u64)(size_t)task, (u64)(size_t)next}});
	task->on_cpu = 0;
	next->on_cpu = 1;
}

static void happen(const char *verb, int number, int other)
{
	struct task_struct *task = &tasks[number];

	if (!strcmp(verb, "wake") || !strcmp(verb, "new")) {
		task->__state = 0;
		on_wakeup(&(struct bpf_raw_tracepoint_args){{(u64)(size_t)task}});
	} else if (!strcmp(verb, "doze")) {
		task->__state = 1;
	} else if (!strcmp(verb, "place")) {
		task->cgroups = &css_sets[other];
	} else {
		give_way(verb, task, &tasks[other]);
	}
}

int main(void)
{
	char verb[16];
	int task, other;
	u32 first = 0;
	u64 none = 0;

	invent();
	lost.update(&first, &none);
	while (scanf("%llu %15s %d %d", &clock_ns, verb, &task, &other) == 4)
		happen(verb, task, other);
	for (int i = 0; i < ROOM; i++)
		if (totals_data.used[i])
			printf("session %llu %llu %llu %llu\n", totals_data.keys[i].session,
			       totals_data.values[i].count, totals_data.values[i].sum_ns,
			       totals_data.values[i].max_ns);
	for (int i = 0; i < ROOM; i++)
		if (waiting_data.used[i])
			printf("waiting %llu %llu\n", waiting_data.values[i].session,
			       waiting_data.values[i].since_ns);
	printf("lost %llu\n", *lost.lookup(&first));
	return 0;
}
