/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * Waits for the lock of a Python interpreter: which are one, and who has it.
 */
#ifndef TXPROF_GIL_H
#define TXPROF_GIL_H

#include "threads.h"

/* A thread that waits for Python's lock gives up each 5 ms, asks the holder to let go, and waits
 * on. It is still the same wait if it was back this soon: far less than running Python and coming
 * back takes. */
#define GIL_RETRY_NS 20000
#define GIL_PATIENCE_NS 5000000 /* Python/ceval_gil.c, DEFAULT_INTERVAL */

/* Whether the wait under way began right behind the wait for Python's lock that was told last. */
static __always_inline int follows_gil_wait(const struct thread *thread)
{
	return thread->gil_sequence && thread->wait_began_ns - thread->gil_ended_ns < GIL_RETRY_NS;
}

/* A retry of that: the thread was not away in between. */
static __always_inline int is_gil_retry(const struct thread *thread)
{
	return thread->flags & WAIT_GIL && thread->gil_ip == thread->ip && thread->gil_sp == thread->sp &&
	       follows_gil_wait(thread);
}

/* Finds out where the interpreter says who has its lock. The current thread's Python frames were just walked. */
static __always_inline void find_holder(struct scratch *scratch, struct thread *thread)
{
	const struct python *python = &scratch->python;
	thread->gil_holder_at = 0;
	if (python->runtime_thread_current)
		thread->gil_holder_at = python->runtime + python->runtime_thread_current;
	else if (python->interpreter_gil_holder)
		thread->gil_holder_at = WORD_AT(scratch->python_thread, python->thread_interpreter) +
					python->interpreter_gil_holder;
}

/* Where the list of frames of the thread state at `state`, which was copied, begins. */
static __always_inline __u64 frames_head(struct scratch *scratch, __u64 state)
{
	const struct python *python = &scratch->python;
	if (python->thread_cframe == PYTHON_ABSENT)
		return state + python->thread_frame;
	return WORD_AT(scratch->python_thread, python->thread_cframe) + python->thread_frame;
}

/* Frames that are no Python calls, above one that is. */
#define MAX_SHIMS 3

/* Copies to python_frame the first frame that is a Python call, of the list that begins with `frame`. Its address; 0: none
 * was found. */
static __always_inline __u64 copy_call(struct scratch *scratch, __u64 frame)
{
	const struct python *python = &scratch->python;
	for (int i = 0; i < MAX_SHIMS && frame; i++) {
		__u32 bytes = python->frame_bytes;
		if (bytes > PYTHON_FRAME_BYTES || bpf_probe_read_user(scratch->python_frame, bytes, (void *)frame))
			return 0;
		if (python->form != PYTHON_SHIM ||
		    BYTE_AT(scratch->python_frame, python->frame_owner) < python->shim_owner)
			return frame;
		frame = WORD_AT(scratch->python_frame, python->frame_previous);
	}
	return 0;
}

/* Notes the call in python_frame as a sample does. 0 on success. */
static __always_inline int name_call(struct scratch *scratch, __u64 words[2], __u64 now)
{
	__u64 code = code_address(WORD_AT(scratch->python_frame, scratch->python.frame_code));
	if (read_code(scratch, code, now))
		return -1;
	words[0] = code;
	words[1] = (__u64)scratch->python_walk.cookie << 32 | instruction_offset(scratch, code);
	return 0;
}

/* Notes the innermost Python frame that begins the list whose head is at `head`, of a thread that runs
 * meanwhile: believed if the list still begins there afterwards. */
static __always_inline void note_holder_frame(struct scratch *scratch, __u64 head, __u64 now)
{
	struct wait_event *wait = &scratch->wait;
	__u64 first = 0, again = 0, words[2];
	if (read_word(head, &first) || !copy_call(scratch, first) || name_call(scratch, words, now))
		return;
	if (read_word(head, &again) || again != first)
		return;
	wait->holder_frame[0] = words[0];
	wait->holder_frame[1] = words[1];
}

/* Copies the Python state of a thread, and finds where the list of its frames begins. 0 on success. */
static __always_inline int find_frames(struct scratch *scratch, struct task_struct *task, __u64 *head, __u64 now)
{
	scratch->python_walk = (struct python_walk){
		.thread_pointer = BPF_CORE_READ(task, thread.fsbase),
	};
	if (find_thread(scratch, BPF_CORE_READ(task, pid), now))
		return -1;
	*head = frames_head(scratch, scratch->python_walk.thread);
	return 0;
}

/* From where a thread waits for the lock, __g_signals of a condition (glibc, bits/thread-shared-types.h), back to who had it
 * last: struct _gil_runtime_state, Include/internal/pycore_gil.h, 3.8 to 3.11. */
#define LAST_HOLDER 64

/* Notes who has the lock that the current thread waits for, or had it last, and in which function. `python` is that thread's
 * interpreter. */
static __noinline int note_holder(struct scratch *scratch, struct thread *thread, __u64 now)
{
	struct wait_event *wait = &scratch->wait;
	const struct python *python = &scratch->python;
	__u64 state = 0;
	if (!thread->gil_holder_at || read_word(thread->gil_holder_at, &state))
		return 0;
	/* Given up, and not taken yet: nobody was woken for it who waits. */
	if (!state && python->runtime_thread_current && read_word((thread->argument & ~7ull) - LAST_HOLDER, &state))
		return 0;
	if (!state || read_thread(scratch, state))
		return 0;
	wait->holder = WORD_AT(scratch->python_thread, python->thread_id);
	note_holder_frame(scratch, frames_head(scratch, state), now);
	return 0;
}

/* Notes the current thread, which just gave up the lock, as who had it, and in which function. */
static __noinline int note_giver(struct scratch *scratch, __u64 now)
{
	__u64 head;
	if (find_frames(scratch, (struct task_struct *)bpf_get_current_task(), &head, now))
		return -1;
	scratch->wait.holder = scratch->python_walk.thread_pointer;
	note_holder_frame(scratch, head, now);
	return 0;
}

#endif
