// SPDX-License-Identifier: GPL-2.0-only
/*
 * Offers BPF programs the hooks of struct memcg_bpf_ops on kernels that do not have them.
 *
 * While a program is attached, a function probe on reclaim_high() sees every allocation that
 * leaves its cgroup above memory.high. If the program wants a delay, the allocating task gets a
 * piece of task work, and sleeps on its way back to user mode: there it holds no lock of the
 * kernel, the kernel's own reclaim is done, and a fatal signal ends the sleep. With nobody
 * attached, nothing is probed.
 *
 * below_low and below_min are part of the type, so that one program fits every kernel that has
 * it, but a program that uses them is refused: see README.md.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bpf.h>
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/fprobe.h>
#include <linux/hash.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/psi.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/task_work.h>
#include <linux/wait_bit.h>

/* The Makefile reads which of the two the kernel's fprobe.h hands to handlers. */
#ifdef ACG_HAS_FTRACE_REGS
#define acg_regs ftrace_regs
#define acg_argument ftrace_regs_get_argument
#else
#define acg_regs pt_regs
#define acg_argument regs_get_kernel_argument
#endif

#define DELAY_MAX_MS 2000
#define SLOT_BITS 10
#define SLOTS_SEARCHED 16

struct memcg_bpf_ops {
	void (*handle_cgroup_online)(struct mem_cgroup *memcg);
	void (*handle_cgroup_offline)(struct mem_cgroup *memcg);
	bool (*below_low)(struct mem_cgroup *memcg);
	bool (*below_min)(struct mem_cgroup *memcg);
	unsigned int (*get_high_delay_ms)(struct mem_cgroup *memcg);
};

static struct memcg_bpf_ops __rcu *attached;
static DEFINE_MUTEX(attach_lock);

/*
 * A task's delay from the moment it is asked for until the task comes out of the kernel. Slots
 * are static because the probe cannot allocate, and found by task, so that a system call that
 * goes over the line many times is delayed once. Only a task itself and its own task work
 * touch its slot.
 */
struct acg_slot {
	struct callback_head work;
	struct task_struct *task;
	struct mem_cgroup *memcg;
};
static struct acg_slot slots[1 << SLOT_BITS];

/* Task work that has not returned yet; the module must not go before it has. */
static atomic_t pending;
static atomic_long_t n_asked, n_delays, n_killed, n_lost, n_ms;

static unsigned int ask(struct mem_cgroup *memcg)
{
	struct memcg_bpf_ops *ops;
	unsigned int ms = 0;

	rcu_read_lock();
	ops = rcu_dereference(attached);
	if (ops)
		ms = ops->get_high_delay_ms(memcg);
	rcu_read_unlock();
	return min(ms, DELAY_MAX_MS);
}

static void delay_task(unsigned int ms)
{
	unsigned long psi_flags;

	atomic_long_inc(&n_delays);
	psi_memstall_enter(&psi_flags);
	/* One sleep, not a loop: freeze and thaw wake it, as they wake the kernel's own penalty. */
	atomic_long_add(ms - jiffies_to_msecs(schedule_timeout_killable(msecs_to_jiffies(ms))), &n_ms);
	psi_memstall_leave(&psi_flags);
	if (fatal_signal_pending(current))
		atomic_long_inc(&n_killed);
}

static void on_return_to_user(struct callback_head *work)
{
	struct acg_slot *slot = container_of(work, struct acg_slot, work);
	struct mem_cgroup *memcg = slot->memcg;
	unsigned int ms = 0;

	smp_store_release(&slot->task, NULL);
	/* Asked again: reclaim may have brought it below the line, or the program is gone. */
	if (!fatal_signal_pending(current) && !(current->flags & PF_EXITING))
		ms = ask(memcg);
	css_put(&memcg->css);
	if (ms)
		delay_task(ms);
	if (atomic_dec_and_test(&pending))
		wake_up_var(&pending);
}

static struct acg_slot *claim_slot(void)
{
	unsigned int first = hash_ptr(current, SLOT_BITS);
	struct acg_slot *slot;
	unsigned int i;

	for (i = 0; i < SLOTS_SEARCHED; i++) {
		slot = &slots[(first + i) & (ARRAY_SIZE(slots) - 1)];
		if (READ_ONCE(slot->task) == current)
			return NULL;
	}
	for (i = 0; i < SLOTS_SEARCHED; i++) {
		slot = &slots[(first + i) & (ARRAY_SIZE(slots) - 1)];
		if (!READ_ONCE(slot->task) && !cmpxchg(&slot->task, NULL, current))
			return slot;
	}
	atomic_long_inc(&n_lost);
	return NULL;
}

static int on_reclaim_high(struct fprobe *probe, unsigned long entry_ip, unsigned long ret_ip,
			   struct acg_regs *regs, void *entry_data)
{
	struct mem_cgroup *memcg = (struct mem_cgroup *)acg_argument(regs, 0);
	struct acg_slot *slot;

	/* The kernel's own workers do this on behalf of others, and never return to user mode. */
	if (!in_task() || current->flags & (PF_KTHREAD | PF_USER_WORKER | PF_EXITING))
		return 0;
	atomic_long_inc(&n_asked);
	if (!ask(memcg))
		return 0;
	slot = claim_slot();
	if (!slot)
		return 0;
	if (!css_tryget(&memcg->css))
		goto release;
	slot->memcg = memcg;
	init_task_work(&slot->work, on_return_to_user);
	atomic_inc(&pending);
	if (!task_work_add(current, &slot->work, TWA_RESUME))
		return 0;
	if (atomic_dec_and_test(&pending))
		wake_up_var(&pending);
	css_put(&memcg->css);
release:
	smp_store_release(&slot->task, NULL);
	return 0;
}

static void tell_lifecycle(struct acg_regs *regs, bool online)
{
	struct cgroup_subsys_state *css = (void *)acg_argument(regs, 0);
	struct memcg_bpf_ops *ops;

	rcu_read_lock();
	ops = rcu_dereference(attached);
	if (ops && online && ops->handle_cgroup_online)
		ops->handle_cgroup_online(mem_cgroup_from_css(css));
	if (ops && !online && ops->handle_cgroup_offline)
		ops->handle_cgroup_offline(mem_cgroup_from_css(css));
	rcu_read_unlock();
}

static int on_online(struct fprobe *probe, unsigned long entry_ip, unsigned long ret_ip,
		     struct acg_regs *regs, void *entry_data)
{
	tell_lifecycle(regs, true);
	return 0;
}

static int on_offline(struct fprobe *probe, unsigned long entry_ip, unsigned long ret_ip,
		      struct acg_regs *regs, void *entry_data)
{
	tell_lifecycle(regs, false);
	return 0;
}

static struct {
	const char *function;
	fprobe_entry_cb handler;
	struct fprobe probe;
} probes[] = {
	{ .function = "reclaim_high", .handler = on_reclaim_high },
	{ .function = "mem_cgroup_css_online", .handler = on_online },
	{ .function = "mem_cgroup_css_offline", .handler = on_offline },
};

static void stop_probing(unsigned int count)
{
	while (count--)
		unregister_fprobe(&probes[count].probe);
}

static int start_probing(void)
{
	unsigned int i;
	int error;

	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		memset(&probes[i].probe, 0, sizeof(probes[i].probe));
		probes[i].probe.entry_handler = probes[i].handler;
		error = register_fprobe_syms(&probes[i].probe, &probes[i].function, 1);
		if (error) {
			pr_err("cannot probe %s: %pe\n", probes[i].function, ERR_PTR(error));
			stop_probing(i);
			return error;
		}
	}
	return 0;
}

static int acg_reg(void *kdata, struct bpf_link *link)
{
	struct memcg_bpf_ops *ops = kdata;
	int error;

	if (!ops->get_high_delay_ms)
		return -EINVAL;
	mutex_lock(&attach_lock);
	error = rcu_access_pointer(attached) ? -EBUSY : start_probing();
	if (!error)
		rcu_assign_pointer(attached, ops);
	mutex_unlock(&attach_lock);
	return error;
}

static void acg_unreg(void *kdata, struct bpf_link *link)
{
	mutex_lock(&attach_lock);
	RCU_INIT_POINTER(attached, NULL);
	stop_probing(ARRAY_SIZE(probes));
	mutex_unlock(&attach_lock);
	/* Until the last caller of the program is out of it. */
	synchronize_rcu();
}

static bool acg_is_valid_access(int off, int size, enum bpf_access_type type,
				const struct bpf_prog *prog, struct bpf_insn_access_aux *info)
{
	return bpf_tracing_btf_ctx_access(off, size, type, prog, info);
}

static const struct bpf_verifier_ops acg_verifier_ops = {
	.get_func_proto = bpf_base_func_proto,
	.is_valid_access = acg_is_valid_access,
};

static int acg_init(struct btf *btf)
{
	return 0;
}

static int acg_check_member(const struct btf_type *type, const struct btf_member *member,
			    const struct bpf_prog *prog)
{
	return 0;
}

/* udata holds a program's descriptor where the type has a function. */
static int acg_init_member(const struct btf_type *type, const struct btf_member *member,
			   void *kdata, const void *udata)
{
	u32 offset = __btf_member_bit_offset(type, member) / 8;

	if (offset != offsetof(struct memcg_bpf_ops, below_low) &&
	    offset != offsetof(struct memcg_bpf_ops, below_min))
		return 0;
	return *(const unsigned long *)(udata + offset) ? -EOPNOTSUPP : 0;
}

/* Shapes of the calls, for kernels that check indirect ones. */
static void stub_event(struct mem_cgroup *memcg)
{
}

static bool stub_below(struct mem_cgroup *memcg)
{
	return false;
}

static unsigned int stub_delay(struct mem_cgroup *memcg)
{
	return 0;
}

static struct memcg_bpf_ops acg_stubs = {
	.handle_cgroup_online = stub_event,
	.handle_cgroup_offline = stub_event,
	.below_low = stub_below,
	.below_min = stub_below,
	.get_high_delay_ms = stub_delay,
};

static struct bpf_struct_ops acg_struct_ops = {
	.verifier_ops = &acg_verifier_ops,
	.init = acg_init,
	.check_member = acg_check_member,
	.init_member = acg_init_member,
	.reg = acg_reg,
	.unreg = acg_unreg,
	.cfi_stubs = &acg_stubs,
	.name = "memcg_bpf_ops",
	.owner = THIS_MODULE,
};

static int stats_get(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "asked %ld delays %ld ms %ld killed %ld lost %ld pending %d\n",
			  atomic_long_read(&n_asked), atomic_long_read(&n_delays),
			  atomic_long_read(&n_ms), atomic_long_read(&n_killed),
			  atomic_long_read(&n_lost), atomic_read(&pending));
}

static const struct kernel_param_ops stats_ops = { .get = stats_get };
module_param_cb(stats, &stats_ops, NULL, 0444);
MODULE_PARM_DESC(stats, "allocations asked about, delays, their sum in ms, delays ended by a kill, delays without a slot, delays not over yet");

static int __init agentcgroup_memcg_init(void)
{
	return register_bpf_struct_ops(&acg_struct_ops, memcg_bpf_ops);
}

/*
 * An attached program holds a reference, so nothing is probed any more here. Tasks that still
 * sleep come back within DELAY_MAX_MS; then those few instructions that follow the last
 * atomic_dec must be behind every task, too.
 */
static void __exit agentcgroup_memcg_exit(void)
{
	wait_var_event(&pending, !atomic_read(&pending));
	synchronize_rcu_tasks();
}

module_init(agentcgroup_memcg_init);
module_exit(agentcgroup_memcg_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("memcg hooks for BPF programs (struct memcg_bpf_ops): bounded delay above memory.high");
