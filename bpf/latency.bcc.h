// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where BCC's instruments count durations: by session, by what took them, by length.
 *
 * Put in front of a *.bcc.c by whoever compiles it: BCC knows its tables only in the one file
 * that it is given, not in what that includes.
 *
 * Defined by whoever compiles it: ROOT_ID and ROOT_LEVEL (cgroup id and depth of the tree).
 *
 * A bucket is an eighth of a power of two of nanoseconds: 8 * floor(log2) + the next three
 * bits. agentcgroup/bpf/latency.py has the other direction.
 */
#include <uapi/linux/ptrace.h>

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

BPF_HASH(buckets, struct place, u64, 65536);
BPF_PERCPU_HASH(totals, struct place, struct total, 4096);
BPF_ARRAY(lost, u64, 1);

/* A table is full: what should have gone there is missing from the result. */
static __always_inline void lose(void)
{
	u32 first = 0;
	u64 *count = lost.lookup(&first);

	if (count)
		lock_xadd(count, 1);
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

static __always_inline void record(u64 session, u32 what, u64 took_ns)
{
	struct place place = {.session = session, .what = what};
	struct total zero = {}, *total;
	u64 none = 0, *count;

	total = totals.lookup_or_try_init(&place, &zero);
	if (!total) {
		lose();
		return;
	}
	total->count++;
	total->sum_ns += took_ns;
	if (took_ns > total->max_ns)
		total->max_ns = took_ns;
	place.bucket = bucket_of(took_ns);
	count = buckets.lookup_or_try_init(&place, &none);
	if (count)
		lock_xadd(count, 1);
	else
		lose();
}
