/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * What runs in the kernel: samples of target threads, and the births, new
 * programs and deaths of target processes. Capture is dumb and fast; all
 * judgement is in userland.
 */
#include "lane.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Fills scratch->saved with what the thread had in user mode. 0 on success. */
static __always_inline int save_user_registers(struct bpf_perf_event_data *ctx, struct scratch *scratch,
					       int in_kernel)
{
	struct saved_registers *saved = &scratch->saved;
	if (in_kernel)
		return save_entry_registers(scratch);
	saved->r15 = ctx->regs.r15, saved->r14 = ctx->regs.r14, saved->r13 = ctx->regs.r13;
	saved->r12 = ctx->regs.r12, saved->rbp = ctx->regs.rbp, saved->rbx = ctx->regs.rbx;
	saved->r11 = ctx->regs.r11, saved->r10 = ctx->regs.r10, saved->r9 = ctx->regs.r9;
	saved->r8 = ctx->regs.r8, saved->rax = ctx->regs.rax, saved->rcx = ctx->regs.rcx;
	saved->rdx = ctx->regs.rdx, saved->rsi = ctx->regs.rsi, saved->rdi = ctx->regs.rdi;
	saved->rip = ctx->regs.rip, saved->rsp = ctx->regs.rsp, saved->cs = ctx->regs.cs;
	return saved->cs != USER_CS;
}

static __always_inline void emit_sample(struct scratch *scratch)
{
	__u64 bytes = sizeof(struct sample_event) + frames_bytes(scratch);
	if (bpf_ringbuf_output(&ring, &scratch->sample, bytes, ring_flags(scratch->sample.outcome)))
		count(COUNTER_RING_FULL, 1);
}

SEC("perf_event")
int on_cpu(struct bpf_perf_event_data *ctx)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 pid = pid_tgid >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &pid);
	if (!process || !on_cpu_samples)
		return 0;
	__u64 began = bpf_ktime_get_ns();
	__u32 share = tick_share(pid, began);
	if (!share)
		return 0;
	struct scratch *scratch = find_scratch(CONTEXT_CLOCK);
	if (!scratch)
		return 0;
	struct process seen = copy_process(process, pid);
	struct sample_event *sample = &scratch->sample;
	fill_sample_head(scratch, pid_tgid, &seen, ctx->sample_period, began);

	sample->flags = share > 1 ? SAMPLE_THINNED : 0;
	int in_kernel = (ctx->regs.cs & 3) == 0;
	if (in_kernel && kernel_frames) {
		long bytes = bpf_get_stack(ctx, scratch->frames, MAX_KERNEL_FRAMES * 8, 0);
		if (bytes > 0)
			sample->kernel_count = (__u64)bytes / 8;
		else
			sample->outcome = OUTCOME_KERNEL_STACK_FAILED;
	}
	if (save_user_registers(ctx, scratch, in_kernel))
		sample->outcome = OUTCOME_NO_USER_REGISTERS;
	else
		walk_stacks(scratch, &seen, (__u32)pid_tgid, began);
	emit_sample(scratch);
	count(COUNTER_SAMPLES, 1);
	count(COUNTER_RUN_NS, bpf_ktime_get_ns() - began);
	/* 0: the perf event itself records nothing. Else it reads the same registers and the same stack
	 * as was walked, because it does so behind this program in the same interrupt. */
	return keep_samples;
}

static __always_inline void emit_process_event(__u32 type, __u32 pid, __u32 other, struct task_struct *task)
{
	struct process_event event = {
		.head = { .time_ns = bpf_ktime_get_ns(), .pid = pid, .type = type },
		.other = other,
	};
	BPF_CORE_READ_INTO(&event.comm, task, comm);
	if (bpf_ringbuf_output(&ring, &event, sizeof(event), RING_WAKE))
		count(COUNTER_EVENTS_LOST, 1);
}

/* TP_PROTO(struct task_struct *parent, struct task_struct *child), include/trace/events/sched.h */
SEC("raw_tp/sched_process_fork")
int process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx->args[0];
	struct task_struct *child = (struct task_struct *)ctx->args[1];
	__u32 parent_pid = BPF_CORE_READ(parent, tgid), child_pid = BPF_CORE_READ(child, tgid);
	if (parent_pid == child_pid) /* a thread */
		return 0;
	struct process *process = bpf_map_lookup_elem(&processes, &parent_pid);
	if (process && follow_children) {
		struct process copy = *process; /* same memory until exec */
		if (copy.pid != parent_pid)
			copy = (struct process){};
		copy.pid = child_pid;
		if (bpf_map_update_elem(&processes, &child_pid, &copy, BPF_ANY)) {
			count(COUNTER_PROCESSES_FULL, 1);
			return 0;
		}
	} else if (!watch_all) {
		return 0;
	}
	emit_process_event(EVENT_FORK, child_pid, parent_pid, child);
	return 0;
}

/* TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm) */
SEC("raw_tp/sched_process_exec")
int process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	__u32 pid = BPF_CORE_READ(task, tgid);
	if (bpf_map_lookup_elem(&processes, &pid)) {
		struct process unknown = { .pid = pid };
		bpf_map_update_elem(&processes, &pid, &unknown, BPF_EXIST);
	} else if (!watch_all) {
		return 0;
	}
	emit_process_event(EVENT_EXEC, pid, 0, task);
	return 0;
}

/* TP_PROTO(struct task_struct *p, …); signal->live has been counted down already. */
SEC("raw_tp/sched_process_exit")
int process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	__u32 pid = BPF_CORE_READ(task, tgid);
	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	if (bpf_map_delete_elem(&processes, &pid))
		return 0;
	bpf_map_delete_elem(&full_rates, &pid);
	emit_process_event(EVENT_EXIT, pid, 0, task);
	return 0;
}
