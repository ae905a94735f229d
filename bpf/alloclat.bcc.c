// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long sessions' tasks spend in the kernel's allocation path, for `observe alloclat`.
 *
 * Compiled by BCC when it is asked for, against the running kernel's headers. It shares
 * nothing with our other programs on purpose: it is the independent instrument.
 *
 * Defined by whoever compiles it: ROOT_ID and ROOT_LEVEL (cgroup id and depth of the tree),
 * and HAVE_… for each function that the kernel's BTF has.
 *
 * A bucket is an eighth of a power of two of nanoseconds: 8 * floor(log2) + the next three
 * bits. agentcgroup/bpf/latency.py has the other direction.
 */
#include <uapi/linux/ptrace.h>

enum what { FAULT, CHARGE, OVER_HIGH };

struct place {
	u64 session; /* cgroup id */
	u32 what;
	u32 bucket;
};

struct total {
	u64 count;
	u64 sum_ns;
	u64 max_ns;
};

/* Keys: thread id, then `what` in two bits. A task that never returns leaves its entry. */
BPF_TABLE("lru_hash", u64, u64, began, 65536);
BPF_HASH(buckets, struct place, u64, 65536);
BPF_PERCPU_HASH(totals, struct place, struct total, 4096);

static __always_inline u64 key_of(u32 what)
{
	return ((u64)(u32)bpf_get_current_pid_tgid() << 2) | what;
}

static __always_inline int enter(u32 what)
{
	u64 key, now;

	if (bpf_get_current_ancestor_cgroup_id(ROOT_LEVEL) != ROOT_ID)
		return 0;
	key = key_of(what);
	now = bpf_ktime_get_ns();
	began.update(&key, &now);
	return 0;
}

static __always_inline u32 bucket_of(u64 ns)
{
	u32 log2 = 0;

	if (ns >= 1ULL << 32) {
		log2 = 32;
	}
	if (ns >> log2 >= 1 << 16)
		log2 += 16;
	if (ns >> log2 >= 1 << 8)
		log2 += 8;
	if (ns >> log2 >= 1 << 4)
		log2 += 4;
	if (ns >> log2 >= 1 << 2)
		log2 += 2;
	if (ns >> log2 >= 1 << 1)
		log2 += 1;
	return 8 * log2 + (log2 >= 3 ? ns >> (log2 - 3) & 7 : ns << (3 - log2) & 7);
}

static __always_inline int leave(u32 what)
{
	struct place place = {.what = what};
	struct total zero = {}, *total;
	u64 key = key_of(what), none = 0, took_ns, *start, *count;

	start = began.lookup(&key);
	if (!start)
		return 0;
	took_ns = bpf_ktime_get_ns() - *start;
	began.delete(&key);
	place.session = bpf_get_current_ancestor_cgroup_id(ROOT_LEVEL + 1);
	total = totals.lookup_or_try_init(&place, &zero);
	if (total) {
		total->count++;
		total->sum_ns += took_ns;
		if (took_ns > total->max_ns)
			total->max_ns = took_ns;
	}
	place.bucket = bucket_of(took_ns);
	count = buckets.lookup_or_try_init(&place, &none);
	if (count)
		lock_xadd(count, 1);
	return 0;
}

KFUNC_PROBE(handle_mm_fault) { return enter(FAULT); }
KRETFUNC_PROBE(handle_mm_fault) { return leave(FAULT); }

#ifdef HAVE_TRY_CHARGE_MEMCG
KFUNC_PROBE(try_charge_memcg) { return enter(CHARGE); }
KRETFUNC_PROBE(try_charge_memcg) { return leave(CHARGE); }
#endif

#ifdef HAVE___MEM_CGROUP_HANDLE_OVER_HIGH
KFUNC_PROBE(__mem_cgroup_handle_over_high) { return enter(OVER_HIGH); }
KRETFUNC_PROBE(__mem_cgroup_handle_over_high) { return leave(OVER_HIGH); }
#elif defined(HAVE_MEM_CGROUP_HANDLE_OVER_HIGH)
KFUNC_PROBE(mem_cgroup_handle_over_high) { return enter(OVER_HIGH); }
KRETFUNC_PROBE(mem_cgroup_handle_over_high) { return leave(OVER_HIGH); }
#endif
