/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * What runs in the kernel: samples of target threads, and the births, new
 * programs and deaths of target processes. Capture is dumb and fast; all
 * judgement is in userland.
 */
#include "python.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* CS of 64-bit user code, arch/x86/include/asm/segment.h (__USER_CS). */
#define USER_CS 0x33
#define RING_LAZY BPF_RB_NO_WAKEUP
#define RING_WAKE BPF_RB_FORCE_WAKEUP

/* Fills scratch->saved with what the thread had in user mode. 0 on success. */
static __always_inline int save_user_registers(struct bpf_perf_event_data *ctx, struct scratch *scratch,
					       int in_kernel)
{
	struct saved_registers *saved = &scratch->saved;
	if (in_kernel) {
		long registers = bpf_task_pt_regs(bpf_get_current_task_btf());
		if (!registers || bpf_probe_read_kernel(saved, sizeof(*saved), (void *)registers))
			return -1;
		return saved->cs != USER_CS;
	}
	saved->r15 = ctx->regs.r15, saved->r14 = ctx->regs.r14, saved->r13 = ctx->regs.r13;
	saved->r12 = ctx->regs.r12, saved->rbp = ctx->regs.rbp, saved->rbx = ctx->regs.rbx;
	saved->r11 = ctx->regs.r11, saved->r10 = ctx->regs.r10, saved->r9 = ctx->regs.r9;
	saved->r8 = ctx->regs.r8, saved->rax = ctx->regs.rax, saved->rcx = ctx->regs.rcx;
	saved->rdx = ctx->regs.rdx, saved->rsi = ctx->regs.rsi, saved->rdi = ctx->regs.rdi;
	saved->rip = ctx->regs.rip, saved->rsp = ctx->regs.rsp, saved->cs = ctx->regs.cs;
	return saved->cs != USER_CS;
}

static __always_inline void fill_sample_head(struct bpf_perf_event_data *ctx, struct scratch *scratch,
					     __u64 pid_tgid, const struct process *process, __u64 now)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct sample_event *sample = &scratch->sample;
	sample->head.time_ns = now;
	sample->head.pid = pid_tgid >> 32;
	sample->head.type = EVENT_SAMPLE;
	sample->period = ctx->sample_period;
	sample->tid = (__u32)pid_tgid;
	sample->generation = process->generation;
	sample->kernel_count = 0;
	sample->user_count = 0;
	sample->thread_pointer = 0;
	sample->task = 0;
	sample->python_instance = 0;
	sample->python_count = 0;
	sample->outcome = OUTCOME_COMPLETE;
	sample->python_outcome = OUTCOME_COMPLETE;
	sample->flags = 0;
	bpf_get_current_comm(sample->thread_comm, COMM_BYTES);
	BPF_CORE_READ_INTO(&sample->process_comm, task, group_leader, comm);
}

/* Whether userland should look at once rather than at its next tick. */
static __always_inline int is_urgent(__u32 outcome)
{
	return outcome == OUTCOME_UNKNOWN_MAPPING || outcome == OUTCOME_TABLE_NOT_LOADED ||
	       outcome == OUTCOME_MAPPINGS_NOT_LOADED;
}

static __always_inline void emit_sample(struct scratch *scratch)
{
	__u64 frames = (__u64)scratch->sample.kernel_count + scratch->sample.user_count + scratch->sample.python_count;
	if (frames > FRAME_CAPACITY) /* cannot be; said for the verifier */
		frames = FRAME_CAPACITY;
	__u64 flags = RING_LAZY;
	if (is_urgent(scratch->sample.outcome) || bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > wakeup_bytes)
		flags = RING_WAKE;
	if (bpf_ringbuf_output(&ring, &scratch->sample, sizeof(struct sample_event) + frames * 8, flags))
		count(COUNTER_RING_FULL, 1);
}

SEC("perf_event")
int on_cpu(struct bpf_perf_event_data *ctx)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 pid = pid_tgid >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &pid);
	if (!process)
		return 0;
	__u64 began = bpf_ktime_get_ns();
	__u32 cpu = bpf_get_smp_processor_id();
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &cpu);
	if (!scratch)
		return 0;
	struct process seen = *process;
	if (seen.pid != pid) /* replaced and handed out again while it was copied */
		seen = (struct process){ .pid = pid };
	struct sample_event *sample = &scratch->sample;
	fill_sample_head(ctx, scratch, pid_tgid, &seen, began);

	int in_kernel = (ctx->regs.cs & 3) == 0;
	if (in_kernel && kernel_frames) {
		long bytes = bpf_get_stack(ctx, scratch->frames, MAX_KERNEL_FRAMES * 8, 0);
		if (bytes > 0)
			sample->kernel_count = (__u64)bytes / 8;
		else
			sample->outcome = OUTCOME_KERNEL_STACK_FAILED;
	}
	if (save_user_registers(ctx, scratch, in_kernel)) {
		sample->outcome = OUTCOME_NO_USER_REGISTERS;
	} else {
		walk_user_stack(scratch, &seen);
		sample->user_count = scratch->walk.frame_count;
		if (sample->outcome == OUTCOME_COMPLETE)
			sample->outcome = scratch->walk.outcome;
		if (seen.python)
			walk_python(scratch, seen.python, (__u32)pid_tgid, began);
	}
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
	emit_process_event(EVENT_EXIT, pid, 0, task);
	return 0;
}
