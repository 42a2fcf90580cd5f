/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * Errands: work that a coroutine gives to a thread of a pool, which wakes it,
 * and which tells the coroutine's loop when it has done it.
 *
 *	coroutine's thread ──┬── runs others ────────────────────────────┬──►
 *	                     │ wakes it                                  │ a byte on the loop's socket
 *	pool's thread  ░░░░░░╰── works ─░ waits ░── works ───────────────╯░░░░░
 *
 * Which wake-ups give work, and whether what is told is that this very work is done, userland sees by the functions that the
 * threads are in, and by the objects that they have. uvloop's loop is told by
 * an eventfd, which is seen if it waits then; else the end is not known.
 */
#ifndef TXPROF_ERRAND_H
#define TXPROF_ERRAND_H

#include "wait.h"

/* How often a thread on an errand may tell a loop something until the next: what it works at may do so, too. Of one that does it
 * more often it is not known when it has done the work. */
#define ERRAND_ENDS 64

/* Notes the call at `walk->frame`, or the next one, as number `index`. 1 ends the loop. */
static long note_errand_call(__u32 index, struct loop *loop)
{
	struct scratch *scratch = loop->scratch;
	struct python_walk *walk = &scratch->python_walk;
	__u64 at = copy_call(scratch, walk->frame), word;
	if (!at || index >= ERRAND_FRAMES)
		return 1;
	struct errand_call *call = &scratch->errand.calls[index];
	walk->frame = WORD_AT(scratch->python_frame, scratch->python.frame_previous);
	if (name_call(scratch, call->frame, scratch->errand.head.time_ns))
		return 1;
	if (!read_word(at + scratch->python.frame_locals, &word))
		call->first_local = word;
	return 0;
}

/* Notes the innermost `count` calls of a thread that waits, or of the current one. */
static __noinline int note_errand_calls(struct scratch *scratch, struct task_struct *task, __u32 count, __u64 now)
{
	__u64 head;
	if (!scratch || !task || find_frames(scratch, task, &head, now) ||
	    read_word(head, &scratch->python_walk.frame))
		return -1;
	struct loop loop = { .scratch = scratch };
	bpf_loop(count, note_errand_call, &loop, 0);
	return 0;
}

/* Notes what the current thread has in its innermost call. 0 on success. */
static __noinline int note_errand_locals(struct scratch *scratch, __u64 now)
{
	__u64 head, first = 0;
	if (!scratch || find_frames(scratch, (struct task_struct *)bpf_get_current_task(), &head, now) ||
	    read_word(head, &first))
		return -1;
	__u64 at = copy_call(scratch, first);
	return !at || bpf_probe_read_user(scratch->errand.locals, sizeof(scratch->errand.locals),
					  (void *)(at + scratch->python.frame_locals));
}

/* Begins the record of an errand of a thread of process `pid`, whose interpreter is copied. 0 on success. */
static __always_inline int begin_errand(struct scratch *scratch, __u32 pid, __u32 tid, __u64 now)
{
	struct errand_event *errand = &scratch->errand;
	__builtin_memset(errand, 0, sizeof(*errand));
	errand->head.time_ns = now;
	errand->head.pid = pid;
	errand->head.type = EVENT_ERRAND;
	errand->tid = tid;
	scratch->sample.head.pid = pid; /* whose code objects are told */
	return copy_python(scratch, pid);
}

/* 0 when it went up. */
static __always_inline int emit_errand(struct scratch *scratch)
{
	return bpf_ringbuf_output(&ring, &scratch->errand, sizeof(scratch->errand), RING_LAZY);
}

/* Whether the thread that the current one wakes may be one that waits for work: queues are waited for by futex(). */
static __always_inline int may_be_errand(const struct thread *thread, const struct task_struct *task)
{
	return thread->call == SYS_FUTEX && !(thread->flags & (WAIT_GIL | WAIT_INTERRUPT)) &&
	       thread->waker_pid == (__u32)task->tgid;
}

/* Tells that the current thread wakes another one of its process, if it runs a coroutine. */
static __noinline int give_errand(struct task_struct *task, struct thread *thread, __u64 now)
{
	__u64 giver = bpf_get_current_pid_tgid();
	__u32 pid = giver >> 32;
	const struct process *process = bpf_map_lookup_elem(&processes, &pid);
	if (!task || !thread || !process || !process->python)
		return 0;
	__u64 coroutine = running_coroutine(process->python);
	struct scratch *scratch = find_scratch(CONTEXT_SWITCH);
	if (!coroutine || !scratch || begin_errand(scratch, pid, task->pid, now))
		return 0;
	thread->on_errand = 0;
	note_errand_locals(scratch, now);
	note_errand_calls(scratch, task, ERRAND_FRAMES / 2, now);
	scratch->errand.coroutine = coroutine;
	scratch->errand.giver_tid = (__u32)giver;
	if (emit_errand(scratch))
		count(COUNTER_RING_FULL, 1);
	else
		thread->on_errand = ERRAND_ENDS + 1;
	return 0;
}

/* It tells something that is not seen: that may have been the end of the errand, and what comes later may be of another one. */
static __always_inline void give_up_errand(struct thread *thread)
{
	thread->on_errand = 0;
	count(COUNTER_ERRANDS_UNSEEN, 1);
}

/* Tells where `thread`, the current one, of process `pid`, is as it tells a loop something. What cannot be told is never made
 * up for. */
static __always_inline void tell_loop(struct scratch *scratch, struct thread *thread, __u32 pid, __u64 now)
{
	struct task_struct *task = bpf_get_current_task_btf();
	if (--thread->on_errand && !begin_errand(scratch, pid, task->pid, now) &&
	    !note_errand_calls(scratch, task, ERRAND_FRAMES, now) && !emit_errand(scratch))
		return;
	give_up_errand(thread);
}

/* The current thread, of process `pid`, has sent one byte: as asyncio does to tell a loop. */
static __noinline int tell_by_byte(__u32 pid)
{
	struct thread *thread = find_thread_of(bpf_get_current_task_btf());
	if (!thread || !thread->on_errand)
		return 0;
	struct scratch *scratch = find_scratch(CONTEXT_EXIT);
	if (!scratch || __sync_lock_test_and_set(&scratch->is_busy, 1)) {
		give_up_errand(thread);
		return 0;
	}
	tell_loop(scratch, thread, pid, bpf_ktime_get_ns());
	scratch->is_busy = 0;
	return 0;
}

/* Whether the thread may be a loop that is told something by an eventfd, as uvloop's is, while it waits. */
static __always_inline int may_be_loop(const struct thread *thread, const struct task_struct *task)
{
	return (thread->call == SYS_EPOLL_PWAIT || thread->call == SYS_EPOLL_WAIT) && thread->waker_call == SYS_WRITE &&
	       !(thread->flags & WAIT_INTERRUPT) && thread->waker_pid == (__u32)task->tgid;
}

/* The current thread wakes one of its process, of `pid`, that waits for events. */
static __noinline int tell_by_event(__u32 pid, __u64 now)
{
	struct thread *thread = find_thread_of(bpf_get_current_task_btf());
	struct scratch *scratch = find_scratch(CONTEXT_SWITCH);
	if (thread && thread->on_errand && scratch)
		tell_loop(scratch, thread, pid, now);
	return 0;
}

#endif
