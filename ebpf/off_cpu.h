/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * What threads of targets do while they do not run: exact times of running,
 * queueing and being blocked, who woke them, and the stack of long waits.
 *
 *	switch out ──► blocked ──waking──► queued ──► switch in ──► back to user mode
 *	                                                │              │
 *	                                   kernel stack, if it was     │ user stack, by the
 *	                                   long: it stands still there │ thread itself
 *
 * When it was woken the scheduler tells with the switch (woken_ns), so wake-ups themselves are watched only where it matters
 * who ends a wait: the rest of the machine does not even pay for being asked.
 * A wait has its user stack taken when the thread goes back to user mode: it is the same as when the wait
 * began, and only then is known whether it is worth taking. The switch asks for that with a task
 * work (Linux 6.18), which nobody else pays for; all waits up to then are one. Older kernels tell the
 * end of every system call of everybody (sys_exit), and all waits of one call are one; a wait outside of any (a page
 * fault, preemption, a stop) has no such end there, so its stack is taken when it begins, and its times are told when it
 * is over.
 */
#ifndef TXPROF_OFF_CPU_H
#define TXPROF_OFF_CPU_H

#include "errand.h"

/* THREAD_SIZE without KASAN, arch/x86/include/asm/page_64_types.h */
#define KERNEL_STACK_BYTES 16384

#define KERNEL_THREAD 0x00200000 /* PF_KTHREAD, include/linux/sched.h */

/* Whether this runs on top of the current thread rather than for it. Interrupts and softirqs of the kernel have
 * stacks of their own (arch/x86/kernel/irq_64.c), and the context of a tracepoint lies on the stack that it was hit
 * on; those of user mode use the thread's, which is in no system call then: `call` is -1. */
static __always_inline int is_interrupt(void *ctx, __s32 call)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u64 stack = (__u64)BPF_CORE_READ(task, stack), at = 0;
	bpf_probe_read_kernel(&at, sizeof(at), &ctx); /* an address, not a pointer, for the verifier */
	if (at - stack >= KERNEL_STACK_BYTES)
		return 1;
	return call < 0 && !(BPF_CORE_READ(task, flags) & KERNEL_THREAD);
}

/* Frames of this program and of what calls it, which are not the waker's. */
#define OWN_FRAMES 2

/* Takes the stack of a wait that begins outside of a system call. The thread is still the current one. 1 when it
 * did. */
static __always_inline int open_wait(void *ctx, struct task_struct *task, struct thread *thread, __u64 now)
{
	struct scratch *scratch = find_scratch(CONTEXT_SWITCH);
	if (!scratch || !may_open(thread, now))
		return 0;
	thread->sequence++;
	thread->flags |= WAIT_OPEN;
	fill_wait(scratch, thread, EVENT_WAIT, name_of(task), now);
	thread->flags &= ~WAIT_OPEN;
	__u64 words = 0;
	if (kernel_frames && thread->state == THREAD_BLOCKED)
		words = words_of(bpf_get_stack(ctx, scratch->frames, MAX_WAIT_KERNEL_FRAMES * 8, OWN_FRAMES));
	if (!emit_stack(scratch, name_of(task), words, now, 0))
		thread->open_sequence = thread->sequence;
	return 1;
}

/* What a run costs is measured in one of so many; those that take a stack measure that, too. */
#define COST_SHARE 64

/* When a run that is measured began; 0: it is not. */
static __always_inline __u64 begin_cost(__u64 now)
{
	return now / 16 % COST_SHARE ? 0 : bpf_ktime_get_ns();
}

static __always_inline void end_cost(__u64 began_ns)
{
	if (began_ns)
		count(COUNTER_OFF_CPU_NS, (bpf_ktime_get_ns() - began_ns) * COST_SHARE);
}

/* Whether the current thread is where it was when its wait began: else a new program was executed, or a signal's end
 * restored other registers. */
static __always_inline int is_same_call(const struct pt_regs___kernel *registers, const struct thread *thread)
{
	return registers && registers->ip == thread->ip && registers->sp == thread->sp;
}

/* A stack that was asked for is taken before the thread returns to user mode; until then it may wait again in the same call,
 * or be preempted. It has not returned while there is work for it to do then. Before the request has become such work, in
 * an interrupt, it has run for some microseconds only; where that interrupt is late, as happens in virtual machines, it has
 * run on, perhaps to the same call again: that wait is over. */
#define DUE_RUN_NS 100000

static __always_inline int is_still_due(const struct task_struct *task, const struct thread *thread,
					const struct pt_regs___kernel *registers, __u64 now)
{
	return is_same_call(registers, thread) && (task->task_works || passed_ns(thread, now) < DUE_RUN_NS);
}

/* Of a thread that leaves its CPU unseen to have come to it, or with a wait that has not ended. Such a wait goes on if its
 * stack is due, or until the system call ends: else that was not seen either. */
static __noinline int mend_wait(struct task_struct *task, struct thread *thread, __u64 now)
{
	if (!task || !thread)
		return 0;
	int is_over = thread->state != THREAD_RUNNING && !thread->in_call;
	if (thread->state != THREAD_RUNNING)
		mend_state(task, thread, now);
	if (has_task_work)
		is_over = thread->wait_began_ns &&
			  !(thread->due && is_still_due(task, thread, entry_registers(task), now));
	if (is_over) {
		thread->due = 0;
		sum_bare(thread);
	}
	return 0;
}

/* Older kernels do not tell when a wait outside of a system call is over: its stack is taken now. 1 if it was. */
static __always_inline int begin_wait(void *ctx, struct task_struct *task, struct thread *thread, __u64 now)
{
	struct pt_regs___kernel *registers = entry_registers(task);
	if (!registers)
		return 0;
	note_call(task, thread, registers);
	return thread->in_call ? 0 : open_wait(ctx, task, thread, now);
}

/* 1 if it took a stack. */
static __always_inline int switch_out(void *ctx, struct task_struct *task, struct thread *thread, int is_blocked,
				      __u64 now)
{
	if (UNLIKELY(thread->state != THREAD_RUNNING || thread->wait_began_ns))
		mend_wait(task, thread, now);
	end_state(thread, now);
	note_accounts(task, thread);
	thread->state = is_blocked ? THREAD_BLOCKED : THREAD_QUEUED;
	if (LIKELY(!thread->wait_began_ns))
		thread->wait_began_ns = now;
	return has_task_work ? 0 : begin_wait(ctx, task, thread, now);
}

/* Tells who wakes a thread, with the stack if that is wanted, when it matters. The waker is the current thread. 1 if it did. */
static __always_inline int tell_waker(void *ctx, struct task_struct *task, struct thread *thread, __u64 now)
{
	/* Who gives up Python's lock; what only asks for it again after 5 ms is a timer. */
	int hands_over = thread->flags & WAIT_GIL && !(thread->flags & WAIT_INTERRUPT) &&
			 thread->waker_pid == (__u32)task->tgid;
	if (!hands_over && !waker_stacks)
		return 0;
	/* Asked to let go, the holder does so within microseconds. */
	__u64 blocked_ns = hands_over && is_gil_retry(thread) ? GIL_PATIENCE_NS : thread->wait_blocked_ns;
	if (blocked_ns < min_wait_ns)
		return 0;
	if (thread->flags & WAIT_INTERRUPT && thread->waker_call < 0)
		return 0;
	struct scratch *scratch = find_scratch(CONTEXT_SWITCH);
	if (hands_over)
		thread->flags |= WAIT_UNTOLD;
	if (!scratch || !may_tell_waker(thread, blocked_ns, hands_over, now))
		return 0;
	int failed;
	if (waker_stacks) {
		fill_wait(scratch, thread, EVENT_WAKE, name_of(task), now);
		__u64 words = 0;
		if (kernel_frames)
			words = words_of(bpf_get_stack(ctx, scratch->frames, MAX_WAIT_KERNEL_FRAMES * 8, OWN_FRAMES));
		failed = emit_stack(scratch, bpf_get_current_pid_tgid(), words, now, 0);
	} else {
		failed = tell_handover(scratch, thread, name_of(task), now);
	}
	if (failed)
		count(COUNTER_RING_FULL, 1);
	else
		thread->flags |= WAIT_TOLD;
	return 1;
}

/* Who wakes a thread: the current one, or what interrupted it. */
static __always_inline void note_waker(void *ctx, struct thread *thread)
{
	thread->flags &= ~(WAIT_NO_WAKER | WAIT_INTERRUPT);
	__u64 waker = bpf_get_current_pid_tgid();
	thread->waker_pid = waker >> 32;
	thread->waker_tid = (__u32)waker;
	bpf_get_current_comm(thread->waker_comm, COMM_BYTES);
	struct pt_regs___kernel *registers = entry_registers(bpf_get_current_task_btf());
	thread->waker_call = registers ? call_of(registers) : -1;
	if (is_interrupt(ctx, thread->waker_call))
		thread->flags |= WAIT_INTERRUPT;
}

/* TP_PROTO(struct task_struct *p): about to be woken, by the current thread or what interrupted it. Attached where it matters
 * who does: it is to be told, or the thread may wait for the lock of some Python; or where the scheduler does not tell when. */
SEC("tp_btf/sched_waking")
int thread_waking(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct thread *thread = find_thread_of(task);
	if (!thread || !thread->since_ns || thread->state != THREAD_BLOCKED)
		return 0;
	struct pt_regs___kernel *registers = entry_registers(task);
	if (has_task_work && registers)
		note_call(task, thread, registers);
	int is_wanted = waker_stacks || waker_names || thread->flags & WAIT_GIL;
	if (!is_wanted && tells_queues(task))
		return 0;
	__u64 now = bpf_ktime_get_ns(), cost = begin_cost(now);
	end_state(thread, now);
	thread->state = THREAD_QUEUED;
	if (is_wanted)
		note_waker(ctx, thread);
	if (waker_names && may_be_errand(thread, task))
		give_errand(task, thread, now);
	else if (waker_names && may_be_loop(thread, task))
		tell_by_event(task->tgid, now);
	if (!tell_waker(ctx, task, thread, now))
		end_cost(cost);
	return 0;
}

/* Whether the wait under way, as long as it is by now, gets a stack. */
static __always_inline enum verdict judge_call(struct thread *thread, __u64 now)
{
	if (is_gil_retry(thread))
		return TAKE; /* a few words more */
	return judge_wait(thread, thread->wait_queue_ns + thread->wait_blocked_ns, now);
}

/* The wait under way is over, and is told or summed as was judged; by the thread itself for TAKE and SAMPLE. */
static __always_inline void close_wait(struct thread *thread, enum verdict verdict, __u64 now)
{
	if (verdict == TAKE && !tell_wait(thread, now)) {
		if (thread->flags & WAIT_GIL)
			thread->gil_ended_ns = now;
		end_wait(thread);
	} else if (verdict == SAMPLE) {
		thread->flags |= WAIT_SAMPLED;
		if (tell_wait(thread, now))
			count(COUNTER_RING_FULL, 1);
		sum_thin(thread);
	} else {
		sum_bare(thread);
	}
}

static __always_inline void sum_untold(struct thread *thread, enum verdict verdict)
{
	if (verdict == TOO_SHORT)
		sum_short(thread);
	else if (verdict == THIN)
		sum_thin(thread);
	else
		sum_bare(thread);
}

/* TP_PROTO(struct pt_regs *regs, long ret), include/trace/events/syscalls.h. Runs at the end of every system
 * call of the machine, so it is quick to find that there is nothing to do. */
SEC("tp_btf/sys_exit")
int call_exit(__u64 *ctx)
{
	const struct pt_regs___kernel *registers = (const struct pt_regs___kernel *)ctx[0];
	struct task_struct *task = bpf_get_current_task_btf();
	struct thread *thread = find_thread_of(task);
	if (!thread || !thread->wait_began_ns || !thread->since_ns)
		return 0;
	__u64 now = bpf_ktime_get_ns();
	if (thread->state != THREAD_RUNNING)
		mend_state(task, thread, now);
	enum verdict verdict = thread->due;
	thread->due = 0;
	if (!verdict)
		verdict = is_same_call(registers, thread) ? judge_call(thread, now) : NO_ROOM;
	if (verdict == TAKE || verdict == SAMPLE)
		close_wait(thread, verdict, now);
	else
		sum_untold(thread, verdict);
	return 0;
}

/* Works under way at once: one for each thread between coming to its CPU and user mode. */
#define WORK_CAPACITY 256
#define WORK_PROBES 4

struct stack_work {
	struct bpf_task_work work;
};

/* key: any; the work of a thread whose stack is due. Full: the wait has no stack, and is summed as such. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WORK_CAPACITY);
	__type(key, __u32);
	__type(value, struct stack_work);
} stack_works SEC(".maps");

/* `task` is the current one. */
static __always_inline void close_due_wait(struct task_struct *task)
{
	struct thread *thread = find_thread_of(task);
	if (!thread || !thread->due || !thread->since_ns)
		return;
	enum verdict verdict = thread->due;
	thread->due = 0;
	__u64 now = bpf_ktime_get_ns();
	if (thread->state != THREAD_RUNNING)
		mend_state(task, thread, now);
	close_wait(thread, is_same_call(entry_registers(task), thread) ? verdict : NO_ROOM, now);
}

/* Runs in the thread whose stack is due, on its way to user mode. Preempted amid this, it would begin a wait before it
 * has told the last. */
static int tell_due(struct bpf_map *map, void *key, void *value)
{
	bpf_preempt_disable();
	close_due_wait(bpf_get_current_task_btf());
	bpf_preempt_enable();
	return 0;
}

/* 0 on success. */
static __always_inline int ask_for_stack(struct task_struct *task)
{
	__u32 slot = (__u32)task->pid;
#pragma clang loop unroll(disable)
	for (int i = 0; i < WORK_PROBES; i++) {
		__u32 key = (slot + i) % WORK_CAPACITY;
		struct stack_work *found = bpf_map_lookup_elem(&stack_works, &key);
		if (found && !bpf_task_work_schedule_resume_impl(task, &found->work, &stack_works, tell_due, 0))
			return 0;
	}
	return -1;
}

/* Whether the wait under way was for the next request of a connection that the thread has answered: no request's time. */
static __always_inline int awaits_request(struct task_struct *task, const struct thread *thread)
{
	if (!thread->answered ||
	    (thread->call != SYS_RECVFROM && thread->call != SYS_RECVMSG && thread->call != SYS_READ))
		return 0;
	struct file *file = file_of(task, thread->argument);
	return file && (__u64)sock_of(file) == thread->answered;
}

/* A thread comes back from a wait that may be worth a stack, or goes on with one whose stack is due. */
static __noinline int ask_or_sum(struct task_struct *task, struct thread *thread, __u64 now)
{
	if (!task || !thread || thread->due)
		return 0;
	struct pt_regs___kernel *registers = entry_registers(task);
	if (registers)
		note_call(task, thread, registers);
	enum verdict verdict = NO_ROOM;
	if (registers && !awaits_request(task, thread))
		verdict = judge_call(thread, now);
	if (verdict != TAKE && verdict != SAMPLE) {
		sum_untold(thread, verdict);
		return 0;
	}
	/* A wait for Python's lock is in futex(); what was only queued did not wait for anything in the kernel. */
	if (kernel_frames && !(thread->flags & WAIT_GIL) && thread->wait_blocked_ns)
		thread->kernel_count = save_kernel_stack(task, thread);
	thread->due = verdict;
	if (ask_for_stack(task)) {
		thread->due = 0;
		sum_bare(thread);
	}
	return 0;
}

/* On older kernels the end of the system call tells the wait, or its times follow what was told when it began. */
static __always_inline void resume_wait(struct task_struct *task, struct thread *thread, __u64 now)
{
	__u64 waited = thread->wait_queue_ns + thread->wait_blocked_ns;
	if (thread->in_call) {
		/* When the call ends, the request that it has received is there. */
		if (waited >= min_wait_ns && awaits_request(task, thread))
			thread->due = NO_ROOM;
		else if (kernel_frames && !(thread->flags & WAIT_GIL) && !thread->kernel_count &&
		    waited >= threshold_ns(find_budget(thread, now)))
			thread->kernel_count = save_kernel_stack(task, thread);
	} else if (!thread->open_sequence) {
		if (waited < min_wait_ns)
			sum_short(thread);
		else
			sum_bare(thread);
	} else if (emit_more(thread, thread->open_sequence, name_of(task), now)) {
		sum_bare(thread);
	} else {
		end_wait(thread);
	}
}

/* `queue_ns` is `now` by the clock of the run queue. */
static __always_inline void switch_in(struct task_struct *task, struct thread *thread, __u64 now, __u64 queue_ns)
{
	if (UNLIKELY(thread->state == THREAD_RUNNING))
		mend_state(task, thread, now);
	else
		end_absence(task, thread, now, queue_ns);
	thread->state = THREAD_RUNNING;
	if (!has_task_work)
		resume_wait(task, thread, now);
	else if (LIKELY(thread->wait_queue_ns + thread->wait_blocked_ns < min_wait_ns && !thread->due &&
			!follows_gil_wait(thread)))
		sum_short(thread);
	else
		ask_or_sum(task, thread, now);
}

/* TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state),
 * include/trace/events/sched.h; the last since 5.18. */
SEC("tp_btf/sched_switch")
int thread_switch(__u64 *ctx)
{
	struct task_struct *out = (struct task_struct *)ctx[1], *in = (struct task_struct *)ctx[2];
	struct thread *leaving = find_thread_of(out), *coming = find_thread_of(in);
	if (!leaving) {
		barrier(); /* or'ing pointers is not for the verifier */
		if (!coming)
			return 0;
	}
	__u64 queue_ns = run_queue_clock(out), now = switch_time(out, in, queue_ns), cost = begin_cost(now);
	int is_told = 0;
	if (leaving && leaving->since_ns)
		is_told = switch_out(ctx, out, leaving, !ctx[0] && ctx[3], now);
	if (coming && coming->since_ns)
		switch_in(in, coming, now, queue_ns);
	if (!is_told)
		end_cost(cost);
	return 0;
}

/* TP_PROTO(struct task_struct *parent, struct task_struct *child): a thread, or a process's first. */
SEC("tp_btf/sched_process_fork")
int thread_fork(__u64 *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx[0], *child = (struct task_struct *)ctx[1];
	if (!find_thread_of(parent) || (parent->tgid != child->tgid && !follow_children))
		return 0;
	struct thread *thread = bpf_task_storage_get(&threads, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread) {
		count(COUNTER_THREADS_LOST, 1);
		return 0;
	}
	thread->state = THREAD_QUEUED;
	thread->call = -1;
	thread->flags = WAIT_NO_WAKER;
	thread->parent_tid = parent->pid;
	thread->born_ns = thread->wait_began_ns = thread->since_ns = bpf_ktime_get_ns();
	return 0;
}

/* TP_PROTO(struct task_struct *p, ...): it will not return to user mode. */
SEC("tp_btf/sched_process_exit")
int thread_exit(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct thread *thread = find_thread_of(task);
	if (!thread)
		return 0;
	struct thread_event event;
	fill_thread(&event, task, thread, bpf_ktime_get_ns());
	bpf_task_storage_delete(&threads, task);
	if (bpf_ringbuf_output(&ring, &event, sizeof(event), RING_LAZY))
		count(COUNTER_THREADS_LOST, 1);
	return 0;
}

/* TP_PROTO(struct task_struct *p, pid_t old_pid, ...): another program begins. A thread other than the first that
 * executes it has become the first, whose id it has from now on: under its own it ends here. */
SEC("tp_btf/sched_process_exec")
int thread_exec(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	__u32 old_tid = ctx[1];
	struct thread *thread = find_thread_of(task);
	if (!thread || old_tid == (__u32)task->pid)
		return 0;
	struct thread_event event;
	__u64 now = bpf_ktime_get_ns();
	fill_thread(&event, task, thread, now);
	event.tid = old_tid;
	bpf_task_storage_delete(&threads, task);
	int is_lost = bpf_ringbuf_output(&ring, &event, sizeof(event), RING_LAZY) != 0;
	if (!meet_thread(task) || is_lost)
		count(COUNTER_THREADS_LOST, 1);
	return 0;
}

/* Sums that another CPU changes meanwhile are read anew: each change begins a state. */
static __always_inline void fill_moving_thread(struct thread_event *event, struct task_struct *task,
					       struct thread *thread)
{
#pragma clang loop unroll(disable) /* the stack has room for one copy */
	for (int i = 0; i < 4; i++) {
		__u64 since_ns = *(volatile __u64 *)&thread->since_ns;
		fill_thread(event, task, thread, bpf_ktime_get_ns());
		barrier();
		if (*(volatile __u64 *)&thread->since_ns == since_ns)
			return;
	}
}

/* Writes the sums of each target's thread: struct thread_event, and of one that is blocked its struct
 * saved_registers and kernel stack. From then on it is accounted for. */
SEC("iter/task")
int account(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct seq_file *seq = ctx->meta->seq;
	if (!task)
		return 0;
	__u32 pid = task->tgid;
	if (!bpf_map_lookup_elem(&processes, &pid))
		return 0;
	struct thread *thread = find_thread_of(task);
	if (!thread)
		thread = meet_thread(task);
	if (!thread) {
		count(COUNTER_THREADS_LOST, 1);
		return 0;
	}
	struct thread_event event;
	fill_moving_thread(&event, task, thread);
	struct saved_registers saved = {};
	long registers = bpf_task_pt_regs(task);
	if (registers)
		bpf_probe_read_kernel(&saved, sizeof(saved), (void *)registers);
	if (thread->state == THREAD_BLOCKED && kernel_frames)
		event.kernel_count = save_kernel_stack(task, thread);
	bpf_seq_write(seq, &event, sizeof(event));
	bpf_seq_write(seq, &saved, sizeof(saved));
	__u32 kernel_bytes = event.kernel_count * 8;
	if (kernel_bytes && kernel_bytes <= sizeof(thread->kernel))
		bpf_seq_write(seq, thread->kernel, kernel_bytes);
	return 0;
}

#endif
