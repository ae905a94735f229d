// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long sessions' tasks spend in the kernel's allocation path, for `observe alloclat`.
 *
 * Compiled by BCC when it is asked for, against the running kernel's headers. It shares
 * nothing with our other programs on purpose: it is the independent instrument.
 *
 * latency.bcc.h goes before it. Defined by whoever compiles it: what that asks for, and HAVE_…
 * for each function that the kernel's BTF has.
 */
enum what { FAULT, CHARGE, OVER_HIGH };

/* Keys: thread id, then `what` in two bits. A task that never returns leaves its entry. */
BPF_TABLE("lru_hash", u64, u64, began, 65536);

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

static __always_inline int leave(u32 what)
{
	u64 key = key_of(what), *start, took_ns;

	start = began.lookup(&key);
	if (!start)
		return 0;
	took_ns = bpf_ktime_get_ns() - *start;
	began.delete(&key);
	record(bpf_get_current_ancestor_cgroup_id(ROOT_LEVEL + 1), what, took_ns);
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
