/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * What the record of a stack is made of, whatever asked for one: its head,
 * the registers, both walks, and the way up the ring.
 */
#ifndef TXPROF_SAMPLE_H
#define TXPROF_SAMPLE_H

#include "python.h"

/* CS of 64-bit user code, arch/x86/include/asm/segment.h (__USER_CS). */
#define USER_CS 0x33
#define RING_LAZY BPF_RB_NO_WAKEUP
#define RING_WAKE BPF_RB_FORCE_WAKEUP

/* Fills scratch->saved with what the thread had in user mode when it entered the kernel. 0 on success. */
static __always_inline int save_entry_registers(struct scratch *scratch)
{
	struct saved_registers *saved = &scratch->saved;
	long registers = bpf_task_pt_regs(bpf_get_current_task_btf());
	if (!registers || bpf_probe_read_kernel(saved, sizeof(*saved), (void *)registers))
		return -1;
	return saved->cs != USER_CS;
}

static __always_inline void fill_sample_head(struct scratch *scratch, __u64 pid_tgid, const struct process *process,
					     __u64 period, __u64 now)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct sample_event *sample = &scratch->sample;
	sample->head.time_ns = now;
	sample->head.pid = pid_tgid >> 32;
	sample->head.type = EVENT_SAMPLE;
	sample->period = period;
	sample->tid = (__u32)pid_tgid;
	sample->generation = process->generation;
	sample->kernel_count = 0;
	sample->user_count = 0;
	sample->thread_pointer = 0;
	sample->task = 0;
	sample->coroutine = 0;
	sample->python_instance = 0;
	sample->python_count = 0;
	sample->outcome = OUTCOME_COMPLETE;
	sample->python_outcome = OUTCOME_COMPLETE;
	sample->flags = 0;
	bpf_get_current_comm(sample->thread_comm, COMM_BYTES);
	BPF_CORE_READ_INTO(&sample->process_comm, task, group_leader, comm);
}

/* A copy of what is known of a process. */
static __always_inline struct process copy_process(const struct process *process, __u32 pid)
{
	struct process seen = *process;
	if (seen.pid != pid) /* replaced and handed out again while it was copied */
		seen = (struct process){ .pid = pid };
	return seen;
}

/* Adds the thread's user stack, and its Python frames, to the sample. `saved` is filled in. */
static __noinline int walk_stacks(struct scratch *scratch, struct process *process, __u32 tid, __u64 now)
{
	struct sample_event *sample = &scratch->sample;
	walk_user_stack(scratch, process);
	sample->user_count = scratch->walk.frame_count;
	if (sample->outcome == OUTCOME_COMPLETE)
		sample->outcome = scratch->walk.outcome;
	if (process->python)
		walk_python(scratch, process->python, tid, now);
	return 0;
}

/* Whether userland should look at once rather than at its next tick. */
static __always_inline int is_urgent(__u32 outcome)
{
	return outcome == OUTCOME_UNKNOWN_MAPPING || outcome == OUTCOME_TABLE_NOT_LOADED ||
	       outcome == OUTCOME_MAPPINGS_NOT_LOADED;
}

/* Bytes of the frames behind the sample. */
static __always_inline __u64 frames_bytes(struct scratch *scratch)
{
	__u64 frames = (__u64)scratch->sample.kernel_count + scratch->sample.user_count + scratch->sample.python_count;
	if (frames > FRAME_CAPACITY) /* cannot be; said for the verifier */
		frames = FRAME_CAPACITY;
	return frames * 8;
}

static __always_inline __u64 ring_flags(__u32 outcome)
{
	if (is_urgent(outcome) || bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > wakeup_bytes)
		return RING_WAKE;
	return RING_LAZY;
}

#endif
